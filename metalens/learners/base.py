"""A learner is a function from a task to a model, F(task) = f: the learning lens."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalens.batching import Batching, Plan, check_batching
from metalens.data import TaskDistribution
from metalens.errors import MetaLensError
from metalens.fields import Fields
from metalens.learners.adapted import AdaptedModel
from metalens.learners.given import explained
from metalens.metrics import Metric
from metalens.networks import Network
from metalens.networks.modes import module_mode
from metalens.settings import SettingsModule
from metalens.tasks import Examples, check_examples, check_targets, place

State = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Mode = Literal["reverse", "mixed"]
Differentiation = Literal["auto"] | Mode


def task_loss(predictions: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy for class indices, mean squared error for real targets.

    Args:
        predictions: logits or predicted targets, `(n, c, ...)`; further axes are those of dense predictions,
            such as height and width.
        y: class indices `(n, ...)`, or real targets `(n, c, ...)`.

    Returns:
        The mean over everything, a scalar.

    Raises:
        MetaLensError: the shapes do not fit.

    >>> import torch
    >>> task_loss(torch.zeros(4, 1), torch.ones(4, 1)).item()
    1.0
    """
    check_targets(predictions, y)
    if y.is_floating_point():
        return F.mse_loss(predictions, y)
    return F.cross_entropy(predictions.movedim(1, -1).flatten(0, -2), y.flatten())


def check_differentiation(differentiation: Differentiation) -> None:
    """Raise `MetaLensError` if a way to differentiate is unknown."""
    if differentiation not in ("auto", *get_args(Mode)):
        raise MetaLensError(f"differentiation must be 'auto', 'reverse' or 'mixed', got {differentiation!r}.")


class Learner(SettingsModule, ABC):
    """Base of all methods: adapt to a support set, and predict with the resulting task state.

    Every method sees one task and mutates nothing. The parameters of the module are the meta-parameters,
    learned in the outer loop. A subclass defines `adapt_encoded` and `predict_encoded`, which both receive
    `encode(x)` in place of the inputs x.

    Args:
        loss: `(predictions (n, c, ...), y) -> scalar` of one task; by default `task_loss`. One's own also
            decides which weights are kept, see `evaluate`.

    Attributes:
        metrics: of its predictions, in place of those of the tasks, for `evaluate`; the first decides which
            weights are kept. For predictions that are not shaped as targets are, such as quantiles.
        head_only: `encode` computes features under the meta-parameters, which callers compute once for many
            adapted models; otherwise, `encode` is the identity.
        min_support: the fewest support examples that it can adapt to; 0 if it predicts without any.
        trusts_vmap: a loop and `torch.vmap` are known to agree for this learner and its loss; for those from
            elsewhere they are otherwise compared on the first tasks, see `measure_vectorized`.
        regularizer_refusal: why no regularizer can act on this learner, or `None`.
        compile_refusal: why its outer step cannot be compiled, or `None`.
        export_refusal: why its adapted models cannot be exported, or `None`.
    """

    metrics: Sequence[str | Metric] = ()
    head_only: bool = False
    min_support: int = 1
    trusts_vmap: bool = False
    compile_refusal: str | None = None
    export_refusal: str | None = None
    regularizer_refusal: str | None = "it has no network to act on."

    def __init__(self, *, loss: Loss = task_loss) -> None:
        super().__init__()
        if isinstance(loss, type):
            name = loss.__name__
            raise MetaLensError(f"loss must be a function, got the class {name}; give an instance, {name}().")
        if not callable(loss):
            raise MetaLensError(f"loss must be a function (predictions, y) -> scalar, got {loss!r}.")
        self.loss = loss
        self._refusal: str | None = None  # of `metalens.learners.measure`
        self._measured: set[tuple[int, bool]] = set()
        self._mode: Mode = "reverse"

    def set_progress(self, progress: float) -> None:
        """Set the fraction of training completed, 0 to 1, for schedules of the inner loop; at first it is 1.

        `fit` calls it before every step, and with 1 at the end.
        """

    def prepare(self, tasks: TaskDistribution) -> None:
        """Compute from the training tasks what gradient descent does not learn; `fit` calls it first."""

    @property
    def fields(self) -> Fields | None:
        """The fields of packed inputs that its network takes apart, or `None`."""
        return None

    @property
    def schedule_finished(self) -> bool:
        """Whether further progress changes nothing; always true without schedules."""
        return True

    @abstractmethod
    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        """Return the task state for encoded support inputs `(s, ...)` and their targets."""

    @abstractmethod
    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        """Return predictions `(n, c)` of the adapted model for encoded inputs `(n, ...)`."""

    def adapted_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that adaptation changes, by their names in the state; by default none."""
        return {}

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
        """Return what adaptation sees of inputs: by default the inputs themselves."""
        return x

    def features(self, z: Tensor) -> Tensor:
        """Return features `(n, d)` of encoded inputs: by default the inputs, flattened."""
        return z.flatten(1)

    def adapt(self, support: Examples) -> State:
        """Adapt to a support set and return the task state; differentiable."""
        return self.adapt_encoded(self.encode(support.x), support.y)

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return predictions `(n, c)` of the model adapted to `state`; differentiable."""
        return self.predict_encoded(state, self.encode(x))

    def forward(self, support: Examples) -> AdaptedModel:
        """Return the model adapted to a support set, `F(support) = f`, as at test time.

        Raises:
            MetaLensError: the support set is no pair of tensors, too small, or not as the network takes them.
        """
        check_examples(support, "The support set")
        if len(support[0]) < self.min_support:
            sizes = f"{self.min_support} or more examples, got {len(support[0])}"
            raise MetaLensError(f"{type(self).__name__} adapts to {sizes}; give it a larger support set.")
        x, y = place(support, self.device, self.dtype)
        with module_mode(self, training=False), explained(self, x=x, y=y):
            return AdaptedModel(self, self.adapt(Examples(x, y)))

    @property
    def mixed_refusal(self) -> str | None:
        """Why an inner loop cannot be differentiated in mixed mode, or `None`."""
        return "it does not adapt by gradient steps."

    @property
    def differentiation(self) -> Mode:
        """How the outer gradient goes through the inner loop; see `Machine`. Set by `fit`.

        Raises:
            MetaLensError: on setting `"mixed"`, where it is not possible.
        """
        return self._mode

    @differentiation.setter
    def differentiation(self, mode: Mode) -> None:
        if mode == "mixed" and self.mixed_refusal is not None:
            raise MetaLensError(
                f"differentiation='mixed' is not possible for {type(self).__name__}: {self.mixed_refusal}"
            )
        self._mode = mode

    @property
    def device(self) -> torch.device:
        """The device on which the learner computes."""
        return self._example.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the learner computes."""
        return self._example.dtype

    @property
    def _example(self) -> Tensor:
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next(tensor for tensor in tensors if tensor.is_floating_point())

    @property
    def vmap_refusal(self) -> str | None:
        """Why tasks cannot be vectorized, or `None`."""
        return self._refusal

    def plan(self, batching: Batching) -> Plan:
        """Decide how tasks are mapped.

        `"auto"` loops if there is no vectorized form, and for convolutions on a CPU (measured: 1.5 to 3 times
        faster than `vmap` for Conv4-64, whatever adapts).

        Raises:
            MetaLensError: vectorization is requested and not possible.
        """
        check_batching(batching)
        if batching == "auto":
            convolution_on_cpu = any(p.dim() > 2 and p.device.type == "cpu" for p in self.parameters())
            return "loop" if self.vmap_refusal is not None or convolution_on_cpu else "vmap"
        if batching != "loop" and self.vmap_refusal is not None:
            raise MetaLensError(
                f"batching={batching!r} is not possible: {self.vmap_refusal} Use 'auto' or 'loop'."
            )
        return batching


class NetworkLearner(Learner):
    """Base of all methods that learn a network, whose backbone may adapt or be shared by all tasks.

    With `head_only` the backbone is shared, and what adapts reads its features `(n, d)`.

    Args:
        network: the backbone and head; parameters that are frozen by now do not adapt.
        loss: see `Learner`.

    Attributes:
        headless: only the backbone of the network is used and kept.
        from_hidden: it can predict from activations alone, as `predict_hidden` does.
        needs_global_labels: it trains on all tasks as one problem, with the classes of the training set.
        trainable: names of the network's parameters that were not frozen when the learner took it.

    Raises:
        MetaLensError: the network is a plain module; `metalens.wrap` makes it usable.
    """

    headless: bool = False
    from_hidden: bool = True
    needs_global_labels: bool = False
    regularizer_refusal: str | None = None
    network: Network
    trainable: frozenset[str]

    def __init__(self, network: Network, *, loss: Loss = task_loss) -> None:
        super().__init__(loss=loss)
        if not isinstance(network, Network):
            raise MetaLensError(
                f"{type(self).__name__} needs a metalens Network, got {type(network).__name__}; use "
                "metalens.wrap(module, head='name of its last layer', example=two_or_more_inputs)."
            )
        self.set_network(network)

    def set_network(self, network: Network) -> None:
        """Take a network: at construction, and again if a regularizer has changed it.

        A subclass that keeps anything by the names or shapes of the network's parameters makes it here.
        """
        self.network = network.headless() if self.headless else network
        if self.head_only and (shared := self.network.shared_with_head()):
            raise MetaLensError(
                f"{type(self).__name__} adapts the head alone, but the head shares {shared} with the "
                "backbone; give it a weight of its own, or use MAML."
            )
        # Noted now: `functional_call` may replace the parameters by tensors that need no gradient.
        self.trainable = frozenset(name for name, p in self.network.named_parameters() if p.requires_grad)

    def embed(self, x: Tensor) -> Tensor:
        """Return the backbone's features `(n, d)` of inputs, under the meta-parameters."""
        return self.network.embed(x)

    def encode(self, x: Tensor) -> Tensor:
        return self.embed(x) if self.head_only else x

    def features(self, z: Tensor) -> Tensor:
        return z if self.head_only else self.embed(z)

    def hidden(self, state: State, x: Tensor, layer: int) -> Tensor:
        """Return the adapted model's activations after `layer` stages; by default, of a shared backbone."""
        return self.network(x, stop=layer)

    def predict_hidden(self, state: State, hidden: Tensor, layer: int) -> Tensor:
        """Return predictions `(n, c)` of the adapted model from activations after `layer` stages."""
        return self.predict_encoded(state, self.network(hidden, start=layer, stop=self.network.depth))

    @property
    def fields(self) -> Fields | None:
        return self.network.fields

    @property
    def vmap_refusal(self) -> str | None:
        return self.network.vmap_refusal or self._refusal
