"""The inner loop of MAML and its variants: one meta-layer is one gradient step."""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.func import grad

from metalens.data.checks import check_sizes
from metalens.errors import MetaLensError, check_positive
from metalens.learners.base import Loss, NetworkLearner, State, task_loss
from metalens.learners.inner import InnerOptimizer, InnerOptimizerName
from metalens.learners.mixed_mode import MixedModeGradient
from metalens.networks import Network
from metalens.networks.functional import functional_call

StepSizes = Mapping[str, Tensor | float]
Adapting = str | Callable[[str], bool]


class InnerSettings(TypedDict, total=False):
    """The settings of `GradientLearner`, for subclasses that add their own and pass these on."""

    inner_lr: float
    inner_steps: int
    test_inner_steps: int | None
    first_order: bool
    inner_optimizer: InnerOptimizerName
    inner_momentum: float
    inner_clip: float | None
    adapting: Adapting | None
    loss: Loss


class GradientLearner(NetworkLearner):
    """Adaptation by gradient steps on the support loss.

    `theta_0 = theta`, `theta_{t+1} = theta_t - alpha * d(grad L(support; theta_t))`, `inner_steps` times,
    where d is the direction of the inner optimizer, by default the gradient itself. Subclasses define which
    parameters adapt (`adapted_parameters`), and override one of the small methods where they differ further.

    Args:
        network: the backbone and head.
        inner_lr: alpha, the step size of the inner loop.
        inner_steps: number of meta-layers (gradient steps) in training.
        test_inner_steps: the same at test time; by default as in training.
        first_order: treat inner gradients as constants in the outer gradient (cheaper, approximate).
        inner_optimizer: `"sgd"` or `"adam"`, see `InnerOptimizer`.
        inner_momentum: momentum of the inner optimizer; beta_1 of Adam.
        inner_clip: largest norm of the inner gradient, or `None` for no limit.
        adapting: of the parameters that the method adapts, only those whose names contain this text, such as
            `"lora_"`, or for which a function of the name is true. The outer loop trains the others, unless
            they are frozen.
        loss: see `Learner`.

    Attributes:
        trains_shared_stages: the outer gradient also reaches parameters that do not adapt.

    Raises:
        MetaLensError: a setting is out of range, nothing of the network can adapt, or it has shared stages
            that the learner cannot train.
    """

    trains_shared_stages: bool = True

    def __init__(
        self,
        network: Network,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        test_inner_steps: int | None = None,
        first_order: bool = False,
        inner_optimizer: InnerOptimizerName = "sgd",
        inner_momentum: float = 0.0,
        inner_clip: float | None = None,
        adapting: Adapting | None = None,
        loss: Loss = task_loss,
    ) -> None:
        check_positive(self, inner_lr=inner_lr)
        check_sizes(inner_steps=inner_steps)
        if test_inner_steps is not None and test_inner_steps < 0:
            raise MetaLensError(f"test_inner_steps must be 0 or more, got {test_inner_steps}.")
        self.inner_lr, self.inner_steps, self.first_order = inner_lr, inner_steps, first_order
        self.test_inner_steps = inner_steps if test_inner_steps is None else test_inner_steps
        self.inner_optimizer = InnerOptimizer(inner_optimizer, inner_momentum, inner_clip)
        if not (adapting is None or callable(adapting) or (isinstance(adapting, str) and adapting)):
            raise MetaLensError(
                f"{type(self).__name__}: adapting must be a part of names, such as 'head.', or a function of "
                f"a name, got {adapting!r}."
            )
        self.adapting = adapting
        super().__init__(network, loss=loss)

    def set_network(self, network: Network) -> None:
        if network.n_shared > 0 and not self.trains_shared_stages:
            raise MetaLensError(
                f"{type(self).__name__} cannot train the {network.n_shared} stages that all tasks share: its "
                "outer gradient reaches only what adapts; use MAML."
            )
        super().set_network(network)
        if not self.adapted_parameters():
            if self.adapting is not None:
                names = ", ".join(name for name, _ in network.named_parameters())
                raise MetaLensError(
                    f"{type(self).__name__} has nothing to adapt: adapting={self.adapting!r} selects none of "
                    f"the parameters that it could adapt; the network has {names}."
                )
            raise MetaLensError(
                f"{type(self).__name__} has nothing to adapt: the parameters that its inner loop changes are "
                "frozen, or belong to stages that all tasks share."
            )

    def is_selected(self, name: str) -> bool:
        """Return whether `adapting` selects a parameter of the network."""
        if self.adapting is None:
            return True
        return self.adapting in name if isinstance(self.adapting, str) else self.adapting(name)

    @property
    def detaches_gradients(self) -> bool:
        """Whether inner gradients are currently treated as constants."""
        return self.first_order

    @property
    def mixed_refusal(self) -> str | None:
        return "its inner gradients are constants in the outer gradient." if self.first_order else None

    @abstractmethod
    def adapted_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that adapt, by their names in the network."""

    def initial_state(self, z: Tensor, y: Tensor) -> State:
        """Return the state before adaptation; by default the meta-parameters."""
        return {**self.adapted_parameters()}

    def step_sizes(self, state: State, n_steps: int) -> Sequence[StepSizes]:
        """Return the step size of each tensor of the state, for each of n steps."""
        return [dict.fromkeys(state, self.inner_lr)] * n_steps

    def support_loss(self, state: State, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss that the inner loop descends."""
        return self.loss(self.predict_encoded(state, z), y)

    def transform(self, gradients: State) -> State:
        """Return the gradients that the inner optimizer reads; by default as they are."""
        return gradients

    def descend(self, state: State, z: Tensor, y: Tensor) -> Iterator[State]:
        """Yield the given state, and the state after each step."""
        memory, gradient = {}, self._gradient()
        yield state
        n_steps = self.inner_steps if self.training else self.test_inner_steps
        for step, sizes in enumerate(self.step_sizes(state, n_steps)):
            # Constant gradients need no graph for the outer gradient, which saves time and memory.
            with torch.no_grad() if self.detaches_gradients else nullcontext():
                gradients = gradient(state, z, y)
            directions, memory = self.inner_optimizer(self.transform(gradients), memory, step)
            state = {name: value - sizes[name] * directions[name] for name, value in state.items()}
            yield state

    def _gradient(self) -> Callable[[State, Tensor, Tensor], State]:
        """Return the gradient of the support loss by the state, as a function to be differentiated."""
        is_mixed = self.differentiation == "mixed" and torch.is_grad_enabled() and not self.detaches_gradients
        return MixedModeGradient(self.support_loss, self) if is_mixed else grad(self.support_loss)

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        return last(self.descend(self.initial_state(z, y), z, y))

    def weights(self, state: State) -> State:
        """Return the parameters of the adapted network, by their names in the network."""
        return state

    def run(self, state: State, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run some stages of the adapted network; see `Network.forward`."""
        return functional_call(self.network, self.weights(state), (x,), {"start": start, "stop": stop})

    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        return self.run(state, z, start=self.network.depth if self.head_only else 0)

    def hidden(self, state: State, x: Tensor, layer: int) -> Tensor:
        return self.run(state, x, stop=layer)

    def predict_hidden(self, state: State, hidden: Tensor, layer: int) -> Tensor:
        return self.run(state, hidden, start=layer)


def last(states: Iterable[State]) -> State:
    """Return the last state without keeping the earlier ones.

    >>> last([{}, {"w": 1}])
    {'w': 1}
    """
    (state,) = deque(states, maxlen=1)
    return state
