"""The last part of an outer step, clipping and the optimizer, in a form that can be recorded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from metalens.execution.clipping import clip_gradients

Tensors = dict[str, Tensor]

KINDS = (Adam, AdamW, SGD)  # zeros are their state before the first step, and a step is linear in its size
# Tensor operations that look at no values, for a step of size 1.
_RECORDABLE = {"lr": 1.0, "foreach": False, "fused": False, "capturable": False, "differentiable": True}


class Update:
    """The change of weights by their gradient, with the settings and the state of an optimizer.

    `w <- w + lr (s(w, g) - w)`, where s is the optimizer's step of size 1 by the clipped gradient g: the step
    of the optimizer, up to rounding. Where a loss or a gradient is not finite, weights and state stay.

    Args:
        optimizer: Adam, AdamW or SGD of PyTorch; the state that it has is changed in place.
        weights: all that are trained; those that the optimizer does not have stay.
        n_replicas: number R of objectives side by side, the first axis of all weights if above 1.
        max_norm: largest norm of the gradient of each, or `None` for no limit.
        zero_nonfinite: set entries of the gradient that are not finite to 0, and change the weights.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> update = Update(SGD([weight], lr=0.1), [weight], max_norm=2.5)
    >>> with torch.no_grad():
    ...     update([weight], update.tensors(), [torch.tensor([3.0, 4.0])], torch.zeros(()))
    tensor([5.])
    >>> weight.tolist()
    [0.8500..., 0.8000...]
    """

    def __init__(
        self, optimizer: Optimizer, weights: Sequence[nn.Parameter], n_replicas: int = 1,
        max_norm: float | None = None, *, zero_nonfinite: bool = False,
    ) -> None:  # fmt: skip
        self.optimizer, self.weights, self.n_replicas = optimizer, weights, n_replicas
        self.max_norm, self.zero_nonfinite = max_norm, zero_nonfinite
        places = {weight: place for place, weight in enumerate(weights)}
        # The group and the place of each weight that is changed.
        self._changed = [
            (number, places[weight])
            for number, group in enumerate(optimizer.param_groups)
            for weight in group["params"]
            if weight in places
        ]

    @property
    def refusal(self) -> str | None:
        """Why the optimizer cannot be recorded, or `None` if it can."""
        optimizer: Any = self.optimizer
        kind, groups = type(optimizer), optimizer.param_groups
        if kind not in KINDS:
            return f"{kind.__name__} is none of {', '.join(known.__name__ for known in KINDS)}"
        if any(group.get("dampening") for group in groups):
            return "dampening makes its first step another one"
        if any("max_momentum" in group for group in groups):
            return "its schedule changes more than the step size"
        hooks = [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
        for number, place in self._changed:
            weight, group = self.weights[place], groups[number]
            hooks.append(weight._post_accumulate_grad_hooks)
            if not weight.is_contiguous():
                return "a weight is not contiguous"
            if weight.device.type != "cpu" and not (group.get("fused") or group.get("capturable")):
                return "it counts its steps on another device"
        return "its hooks would not be called" if any(hooks) else None

    def settings(self) -> tuple[Any, ...]:
        """Return what a recording fixes: all settings but the step sizes."""
        groups = self.optimizer.param_groups
        return tuple(tuple(v for k, v in group.items() if k not in ("params", "lr")) for group in groups)

    def tensors(self) -> list[Tensor]:
        """Return the state of the optimizer and the step size of each group."""
        states = [state[name] for state in self._states() for name in sorted(state)]
        rates = [torch.as_tensor(group["lr"], dtype=torch.float64) for group in self.optimizer.param_groups]
        return [*states, *rates]

    def __call__(
        self, weights: Sequence[Tensor], tensors: Sequence[Tensor], gradients: Sequence[Tensor | None],
        loss: Tensor,
    ) -> Tensor:  # fmt: skip
        """Change weights and state in place; return the norms of the gradient before clipping, `(R,)`.

        Args:
            weights: values of the weights.
            tensors: what `tensors` returned.
            gradients: by the weights, of which those without one stay.
            loss: a scalar, or `(R,)`.
        """
        clipped = [None if gradient is None else gradient.clone() for gradient in gradients]
        known = [gradient for gradient in clipped if gradient is not None]
        norms = clip_gradients(known, self.n_replicas, self.max_norm, zero_nonfinite=self.zero_nonfinite)
        remaining = iter(tensors)
        states = [{name: next(remaining) for name in sorted(state)} for state in self._states()]
        rates = list(remaining)
        stepped, new_states = self._step(weights, clipped, states)
        is_usable = norms.isfinite() & loss.reshape(-1).isfinite()

        def write(old: Tensor, new: Tensor) -> None:
            of_each = is_usable.any() if old.dim() == 0 else is_usable.view(-1, *[1] * (old.dim() - 1))
            old.copy_(new if self.zero_nonfinite else torch.where(of_each, new, old))

        for (number, place), old, new in zip(self._changed, states, new_states, strict=True):
            if clipped[place] is not None:
                write(weights[place], weights[place] + rates[number] * (stepped[place] - weights[place]))
                for name, tensor in old.items():
                    write(tensor, new[name])
        return norms

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Undo all changes of weights and state that the block makes."""
        before = [weight.detach().clone() for weight in self.weights]
        state = deepcopy(self.optimizer.state_dict())
        try:
            yield
        finally:
            self.optimizer.load_state_dict(state)
            with torch.no_grad():
                for weight, values in zip(self.weights, before, strict=True):
                    weight.copy_(values)

    def _step(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor | None], states: Sequence[Tensors]
    ) -> tuple[list[Tensor], list[Tensors]]:
        """Return weights and states after a step of size 1."""
        groups = [{**group, **_RECORDABLE, "params": []} for group in self.optimizer.param_groups]
        stepped = [weight.clone() for weight in weights]
        for weight, gradient in zip(stepped, gradients, strict=True):
            weight.grad = gradient
        for number, place in self._changed:
            groups[number]["params"].append(stepped[place])
        kind: Any = type(self.optimizer)
        optimizer = kind(groups)
        for (_, place), state in zip(self._changed, states, strict=True):
            # Steps are counted in double precision, for the powers of factors next to 1.
            optimizer.state[stepped[place]] = {
                name: tensor.double() if name == "step" else tensor.clone() for name, tensor in state.items()
            }
        optimizer.step()
        return stepped, [optimizer.state[stepped[place]] for _, place in self._changed]

    def _states(self) -> list[Tensors]:
        """Return the state of each weight that is changed, zeros before the first step."""
        kind: Any = type(self.optimizer)
        optimizer, found = self.optimizer, []
        for number, place in self._changed:
            weight = self.weights[place]
            if weight not in optimizer.state:
                other = weight.detach().clone()
                other.grad = torch.zeros_like(other)
                like = kind([{**optimizer.param_groups[number], "params": [other]}])
                like.step()
                state = like.state[other].items()
                optimizer.state[weight] = {
                    name: torch.zeros_like(tensor) for name, tensor in state if tensor is not None
                }
            found.append(optimizer.state[weight])
        return found
