"""Meta-gradients by the implicit function theorem."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vjp

from metalens.data.checks import check_sizes
from metalens.errors import check_positive
from metalens.learners.base import Loss, State, task_loss
from metalens.learners.gradient import last
from metalens.learners.maml import MAML
from metalens.networks import Network


class IMAML(MAML):
    """MAML whose inner loop stays near the initialization, and whose meta-gradient ignores the path taken.

    The inner loop descends `G(phi) = L(support; phi) + (lambda / 2) ||phi - theta||^2`. At its minimum the
    implicit function theorem gives `d phi / d theta = (I + H / lambda)^-1`, with H the Hessian of the support
    loss at phi. Conjugate gradients compute its product with a vector; they start from the first-order
    meta-gradient, and stop early if `I + H / lambda` is not positive. Memory does not grow with the number of
    steps. The meta-gradient is exact if the inner loop has converged.

    Args:
        network: see `GradientLearner`.
        proximity: lambda, how strongly the inner loop is held near the initialization.
        cg_steps: steps of conjugate gradients.
        inner_lr: step size of the inner loop; it must be below `2 / (lambda + largest curvature)`.
        inner_steps: gradient steps in training.
        test_inner_steps: the same at test time; by default as in training.
        loss: see `Learner`.

    Raises:
        MetaLensError: a setting is out of range, or the network has stages that all tasks share.

    >>> from metalens import IMAML, Sinusoid, mlp
    >>> IMAML(mlp(), inner_lr=0.05)(Sinusoid("test")[0].support).state["head.weight"].shape
    torch.Size([1, 40])

    Source: A. Rajeswaran, C. Finn, S. Kakade, S. Levine, "Meta-Learning with Implicit Gradients", 2019,
    arXiv 1909.04630. Deviations: a fixed number of gradient steps in the inner loop; conjugate gradients
    start from the vector itself, not from 0, and stop at a direction of negative curvature.
    """

    trains_shared_stages = False

    def __init__(
        self,
        network: Network,
        *,
        proximity: float = 2.0,
        cg_steps: int = 5,
        inner_lr: float = 0.1,
        inner_steps: int = 16,
        test_inner_steps: int | None = None,
        loss: Loss = task_loss,
    ) -> None:
        check_positive(self, proximity=proximity)
        check_sizes(cg_steps=cg_steps)
        super().__init__(
            network,
            inner_lr=inner_lr,
            inner_steps=inner_steps,
            test_inner_steps=test_inner_steps,
            first_order=True,
            loss=loss,
        )
        self.proximity, self.cg_steps = proximity, cg_steps

    def support_loss(self, state: State, z: Tensor, y: Tensor) -> Tensor:
        moves = [(state[name] - p.detach()).square().sum() for name, p in self.adapted_parameters().items()]
        return super().support_loss(state, z, y) + self.proximity / 2 * torch.stack(moves).sum()

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        start = self.initial_state(z, y)
        detached = {name: value.detach() for name, value in start.items()}
        end = last(self.descend(detached, z, y))
        attached = _Implicit.apply(self._solve, z, y, *start.values(), *end.values())
        return dict(zip(end, attached, strict=True))

    def _solve(self, z: Tensor, y: Tensor, phi: tuple[Tensor, ...], v: tuple[Tensor, ...]) -> list[Tensor]:
        """Return the solution u of `(I + H / lambda) u = v` by conjugate gradients."""
        names = list(self.adapted_parameters())

        def plain_loss(values: tuple[Tensor, ...]) -> Tensor:
            return MAML.support_loss(self, dict(zip(names, values, strict=True)), z, y)

        times_hessian = vjp(grad(plain_loss), phi)[1]  # the Hessian is symmetric: u H is H u

        def product(u: list[Tensor]) -> list[Tensor]:
            (hessian_u,) = times_hessian(tuple(u))
            return _add(u, hessian_u, 1 / self.proximity)

        return _conjugate_gradients(product, list(v), self.cg_steps)


class _Implicit(torch.autograd.Function):
    """The adapted parameters as a function of the initial ones, by the implicit function theorem."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        solve: Callable[..., list[Tensor]], z: Tensor, y: Tensor, *values: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(phi.clone() for phi in values[len(values) // 2 :])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.solve, z, y, *values = inputs
        ctx.save_for_backward(z, y, *values[len(values) // 2 :])

    @staticmethod
    def backward(ctx: Any, *v: Tensor) -> tuple[Tensor | None, ...]:
        z, y, *phi = ctx.saved_tensors
        return (None, None, None, *ctx.solve(z, y, tuple(phi), v), *[None] * len(phi))


def _conjugate_gradients(
    product: Callable[[list[Tensor]], list[Tensor]], v: list[Tensor], n_steps: int
) -> list[Tensor]:
    """Return u with `product(u) = v`; a task stops at a direction along which the product is not positive."""
    u = v
    residual = direction = _add(v, product(v), -1.0)
    size = _dot(residual, residual)
    tiny = torch.finfo(size.dtype).tiny  # once solved, further steps change nothing
    positive = torch.ones_like(size, dtype=torch.bool)
    for _ in range(n_steps):
        image = product(direction)
        curvature = _dot(direction, image)
        positive = positive & (curvature > 0)
        step = torch.where(positive, size / curvature.clamp(min=tiny), 0.0)
        u = _add(u, direction, step)
        residual = _add(residual, image, -step)
        before, size = size, _dot(residual, residual)
        direction = _add(residual, direction, size / before.clamp(min=tiny))
    return u


def _add(a: list[Tensor], b: list[Tensor], factor: Tensor | float) -> list[Tensor]:
    return [x + factor * y for x, y in zip(a, b, strict=True)]


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
