"""What neural processes have in common: a Gaussian for numbers, logits for classes."""

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from metalens.errors import check_positive
from metalens.learners.base import Loss, NetworkLearner, State, task_loss
from metalens.learners.classification import indicator_targets, number_of_outputs
from metalens.networks import Network


class NeuralProcess(NetworkLearner):
    """Base of learners that read the support set and predict a distribution, without any step or solver.

    For each of c targets the decoder returns two numbers, a and b, at a query:

        y ~ N(a, s^2), s = min_std + softplus(b)

    and the outer loss is the negative log density per target. Of classes, a are the logits, b is not used,
    and the outer loss is `loss`. A subclass defines `adapt_encoded` and `decode`.

    Args:
        network: only its backbone g is used and kept.
        n_outputs: targets or classes of a task; by default the number of outputs of the network's head.
        min_std: the smallest standard deviation s, in units of y.
        loss: see `Learner`; of numbers, for regularizers alone.

    Raises:
        MetaLensError: a setting is out of range, or targets do not fit `n_outputs`.
    """

    head_only = headless = True
    min_support = 0

    def __init__(
        self,
        network: Network,
        *,
        n_outputs: int | None = None,
        min_std: float = 0.05,
        loss: Loss = task_loss,
    ) -> None:
        super().__init__(network, loss=loss)
        self.n_outputs = number_of_outputs(type(self).__name__, network, n_outputs)
        check_positive(self, min_std=min_std)
        self.min_std = min_std

    @abstractmethod
    def decode(self, state: State, z: Tensor) -> Tensor:
        """Return the numbers a, then b, of every target at encoded inputs, `(n, 2 c)`."""

    def pairs(self, z: Tensor, y: Tensor) -> Tensor:
        """Return features beside targets, or indicators of classes, `(n, d + c)`."""
        return torch.cat([z, indicator_targets(y, z, self.n_outputs)], dim=1)

    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        return self.decode(state, z)[:, : self.n_outputs]

    def predict_distribution(self, state: State, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of noisy targets at the inputs `(n, *input_shape)`, each `(n, c)`.

        The variance is in squared units of y. Like `predict`, it runs the backbone in the mode that the
        learner is in.
        """
        mean, spread = self.decode(state, self.encode(x)).chunk(2, dim=1)
        return mean, self._std(spread).square()

    def outer_loss(self, state: State, predictions: Tensor, z: Tensor, y: Tensor) -> Tensor:
        targets = indicator_targets(y, z, self.n_outputs)
        if not y.is_floating_point():
            return self.loss(predictions, y)
        mean, spread = self.decode(state, z).chunk(2, dim=1)
        std = self._std(spread)
        return (((targets - mean) / std).square() / 2 + std.log()).mean() + math.log(2 * math.pi) / 2

    def _std(self, spread: Tensor) -> Tensor:
        return self.min_std + F.softplus(spread)
