"""The gradient loop that MAML and its kin share: one meta-layer is one gradient step."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.func import functional_call, grad

from metalens.errors import MetaLensError
from metalens.learners.base import Learner, Loss, State, task_loss
from metalens.networks import Network


class GradientLearner(Learner):
    """Adaptation by gradient steps on the support loss.

    `theta_0 = theta`, `theta_{t+1} = theta_t - alpha * grad L(support; theta_t)`, `inner_steps` times.
    Subclasses say which parameters adapt (`adapted_parameters`), and what they apply to
    (`predict_encoded`).

    Args:
        network: the backbone and head.
        inner_lr: alpha, the step size of the inner loop.
        inner_steps: number of meta-layers (gradient steps) in training.
        test_inner_steps: the same at test time; by default as in training.
        first_order: treat inner gradients as constants in the outer gradient (cheaper, approximate).
        loss: see `Learner`.

    Raises:
        MetaLensError: a setting is out of range.
    """

    def __init__(
        self,
        network: Network,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        test_inner_steps: int | None = None,
        first_order: bool = False,
        loss: Loss = task_loss,
    ) -> None:
        super().__init__(network, loss=loss)
        if not 0 < inner_lr < math.inf:
            raise MetaLensError(f"inner_lr must be above 0 and finite, got {inner_lr}.")
        if inner_steps < 1:
            raise MetaLensError(f"inner_steps must be at least 1, got {inner_steps}.")
        if test_inner_steps is not None and test_inner_steps < 0:
            raise MetaLensError(f"test_inner_steps must be 0 or more, got {test_inner_steps}.")
        self.inner_lr, self.inner_steps, self.first_order = inner_lr, inner_steps, first_order
        self.test_inner_steps = inner_steps if test_inner_steps is None else test_inner_steps

    def initial_state(self) -> State:
        """Return the state before adaptation: the meta-parameters themselves."""
        return dict[str, Tensor](self.adapted_parameters())

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        def support_loss(state: State) -> Tensor:
            return self.loss(self.predict_encoded(state, z), y)

        state = self.initial_state()
        for _ in range(self.inner_steps if self.training else self.test_inner_steps):
            gradients = grad(support_loss)(state)
            if self.first_order:
                gradients = {name: gradient.detach() for name, gradient in gradients.items()}
            state = {name: value - self.inner_lr * gradients[name] for name, value in state.items()}
        return state


def call(module: nn.Module, state: State, x: Tensor) -> Tensor:
    """Apply a module with some of its parameters replaced."""
    return functional_call(module, state, (x,))
