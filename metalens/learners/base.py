"""A learner is the learning lens itself: a function from a task to a model, F(task) = f."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalens.batching import Batching, Plan, check_batching
from metalens.data import TaskDistribution
from metalens.errors import MetaLensError
from metalens.networks import Network
from metalens.tasks import Examples

State = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def task_loss(predictions: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy for class indices, mean squared error for real targets.

    Args:
        predictions: logits or predicted targets, `(..., n, c)`.
        y: class indices `(..., n)`, or real targets `(..., n, c)`.

    Returns:
        The mean over everything, a scalar.

    Raises:
        MetaLensError: the shapes do not belong together.

    >>> import torch
    >>> task_loss(torch.zeros(4, 1), torch.ones(4, 1)).item()
    1.0
    """
    check_targets(predictions, y)
    if y.is_floating_point():
        return F.mse_loss(predictions, y)
    return F.cross_entropy(predictions.flatten(0, -2), y.flatten())


def check_targets(predictions: Tensor, y: Tensor) -> None:
    """Refuse targets that do not belong to predictions `(..., n, c)`; broadcasting would hide the mistake.

    Raises:
        MetaLensError: real targets are not `(..., n, c)`, or class indices not int64 of `(..., n)`.

    >>> check_targets(torch.zeros(4, 1), torch.ones(4))
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: Real targets must have the shape of the predictions, (4, 1), got (4,).
    """
    if y.is_floating_point():
        if y.shape != predictions.shape:
            raise MetaLensError(
                f"Real targets must have the shape of the predictions, {tuple(predictions.shape)}, "
                f"got {tuple(y.shape)}."
            )
    elif y.dtype != torch.int64 or y.shape != predictions.shape[:-1]:
        raise MetaLensError(
            f"Class indices must be int64 of shape {tuple(predictions.shape[:-1])}, got {y.dtype} of "
            f"{tuple(y.shape)}."
        )


@contextmanager
def module_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a module into training or evaluation mode, and leave every submodule as it was.

    >>> layer = nn.Dropout()
    >>> with module_mode(layer, training=False):
    ...     print(layer.training)
    False
    >>> layer.training
    True
    """
    modes = {child: child.training for child in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for child, before in modes.items():
            child.training = before


class Learner(nn.Module, ABC):
    """Base of all methods. Every method of a learner sees one task; nothing is mutated.

    The parameters of the module are the meta-parameters, learned in the outer loop. A subclass writes
    `adapt_encoded` and `predict_encoded`. Where `head_only` is true, both receive the features
    `(n, d)` of the shared backbone instead of the inputs, so that callers can compute features once for
    many adapted models.

    Args:
        network: the backbone and head; parameters that are frozen by now do not adapt.
        loss: `(predictions (n, c), y) -> scalar` of one task; by default `task_loss`.

    Attributes:
        head_only: the backbone is shared by all tasks; only what reads its features adapts.
        from_hidden: it can predict from activations alone, as `predict_hidden` does.
        pooled: it trains on all tasks as one problem, whose classes are those of the whole training set.
        regularizer_refusal: why no regularizer can act on this learner, or `None` where they can.
        trainable: names of the network's parameters that were not frozen when the learner took it.

    Raises:
        MetaLensError: the network is a plain module; `metalens.wrap` makes it usable.
    """

    head_only: bool = False
    from_hidden: bool = True
    pooled: bool = False
    regularizer_refusal: str | None = None
    network: Network
    trainable: frozenset[str]

    def __init__(self, network: Network, *, loss: Loss = task_loss) -> None:
        super().__init__()
        if not isinstance(network, Network):
            raise MetaLensError(
                f"{type(self).__name__} needs a metalens Network, got {type(network).__name__}; use "
                "metalens.wrap(module, head='name of its last layer', example=two_or_more_inputs)."
            )
        self.loss = loss
        self.set_network(network)

    def set_network(self, network: Network) -> None:
        """Take a network: at construction, and again where a regularizer has changed it.

        A subclass that keeps anything by the names or shapes of the network's parameters makes it here.
        """
        self.network = network
        # Noted now: whoever calls the learner with other tensors (`functional_call`) may need no gradient.
        self.trainable = frozenset(name for name, p in network.named_parameters() if p.requires_grad)

    def set_progress(self, progress: float) -> None:
        """Take notice of the share of outer steps already made, 0 to 1; for schedules of the inner loop.

        `fit` calls it before every step, and with 1 at the end. A learner that was never told acts as at 1.
        """

    def prepare(self, tasks: TaskDistribution) -> None:
        """Take notice of the training tasks, for what is not learned by descent.

        `fit` calls it before the first step, also of a learner without meta-parameters.
        """

    @property
    def schedule_finished(self) -> bool:
        """Whether further progress changes nothing: a learner with schedules tells when they have ended."""
        return True

    @abstractmethod
    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        """Return the task state for encoded support inputs `(s, ...)` and their targets."""

    @abstractmethod
    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        """Return predictions `(n, c)` of the adapted model for encoded inputs `(n, ...)`."""

    def adapted_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that differ between tasks after adaptation, by their names in the state.

        None by default.
        """
        return {}

    def hidden(self, state: State, x: Tensor, layer: int) -> Tensor:
        """Return the activations of the adapted model after `layer` stages of its network.

        The default is for learners whose backbone is shared by all tasks.
        """
        return self.network(x, stop=layer)

    def predict_hidden(self, state: State, hidden: Tensor, layer: int) -> Tensor:
        """Return predictions `(n, c)` of the adapted model from activations after `layer` stages."""
        return self.predict_encoded(state, self.network(hidden, start=layer, stop=self.network.depth))

    def outer_loss(self, state: State, predictions: Tensor, z: Tensor, y: Tensor) -> Tensor:
        """Return the outer loss of one task; by default the loss of the adapted model's predictions.

        Args:
            state: the task state.
            predictions: `predict_encoded(state, z)`, `(q, c)`.
            z: encoded query inputs, `(q, ...)`.
            y: query targets.
        """
        return self.loss(predictions, y)

    def encode(self, x: Tensor) -> Tensor:
        """Return what adaptation sees of the inputs: features if `head_only`, else the inputs."""
        return self.embed(x) if self.head_only else x

    def features(self, z: Tensor) -> Tensor:
        """Return the backbone's features `(n, d)` of encoded inputs, under the meta-parameters."""
        return z if self.head_only else self.embed(z)

    def embed(self, x: Tensor) -> Tensor:
        """Return the backbone's features `(n, d)` of inputs, under the meta-parameters."""
        return self.network.embed(x)

    def adapt(self, support: Examples) -> State:
        """Adapt to a support set and return the task state, a value; differentiable."""
        return self.adapt_encoded(self.encode(support.x), support.y)

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return predictions `(n, c)` of the model adapted to `state`; differentiable."""
        return self.predict_encoded(state, self.encode(x))

    def forward(self, support: Examples) -> AdaptedModel:
        """Return the model adapted to a support set as at test time: `F(support) = f`.

        The examples are moved to the learner's device.
        """
        with module_mode(self, training=False):
            return AdaptedModel(self, self.adapt(Examples(*(tensor.to(self.device) for tensor in support))))

    @property
    def device(self) -> torch.device:
        """Where the meta-parameters are."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the meta-parameters."""
        return next(self.network.parameters()).dtype

    def plan(self, batching: Batching) -> Plan:
        """Decide how tasks are mapped.

        `"auto"` loops where the network has no vectorized form, and for convolutions on a CPU (measured:
        1.5 to 3 times faster than `vmap` for Conv4-64, whatever adapts); everything else is vectorized.

        Raises:
            MetaLensError: vectorization was asked for and the network refuses it.
        """
        check_batching(batching)
        refusal = self.network.vmap_refusal
        if batching == "auto":
            convolution_on_cpu = any(
                p.dim() > 2 and p.device.type == "cpu" for p in self.network.parameters()
            )
            return "loop" if refusal is not None or convolution_on_cpu else "vmap"
        if batching != "loop" and refusal is not None:
            raise MetaLensError(f"batching={batching!r} is not possible: {refusal} Use 'auto' or 'loop'.")
        return batching


@dataclass(frozen=True)
class AdaptedModel:
    """A model adapted to one task: call it on inputs.

    It holds what adaptation changed, and refers to the learner for the rest: training the learner further
    changes the model of a learner that shares its backbone between tasks.

    Attributes:
        learner: the learner that made it.
        state: the task state.
    """

    learner: Learner
    state: State

    def __call__(self, x: Tensor) -> Tensor:
        """Return predictions `(n, c)` for inputs `(n, *input_shape)`, on the learner's device."""
        with module_mode(self.learner, training=False):
            return self.learner.predict(self.state, x.to(self.learner.device))
