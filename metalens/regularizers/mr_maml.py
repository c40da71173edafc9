"""Meta-regularization on weights: noise, and a penalty on the information in the shared weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError, check_nonnegative, check_positive
from metalens.learners import IMAML, NetworkLearner
from metalens.networks import Network
from metalens.regularizers.base import Regularizer
from metalens.tasks import Task


class MRMAML(Regularizer):
    """Limit the information in the backbone's weights, so that they do not memorize tasks.

    The weights are Gaussian, `q = N(mu, diag(sigma^2))`: mu are the network's parameters, sigma is learned.
    Each outer step uses one sample, `mu + sigma * e`, `e ~ N(0, 1)`, and adds

        beta * KL(q || N(0, 1)) = beta * sum 1/2 (mu^2 + sigma^2 - 1 - ln sigma^2)

    At test time the weights are mu. It acts on the backbone's parameters of two or more axes (weights of
    linear, convolutional and attention layers), not on vectors such as biases. beta = 0 leaves the noise.

    Args:
        beta: strength, in units of the loss per nat; the default is that of the authors' sinusoid code.
        initial_sigma: initial standard deviation of all weights.

    Raises:
        MetaLensError: a setting is out of range; the backbone has no such weights, recurrent layers, or
            weights that another MRMAML acts on; the learner is IMAML.

    >>> from metalens import ANIL, MRMAML, Objective, Sinusoid, mlp
    >>> objective = Objective(ANIL(mlp()), [MRMAML(beta=1e-4)])
    >>> sorted(objective(Sinusoid().batch(range(4))))
    ['mr_maml', 'query']

    Source: M. Yin, G. Tucker, M. Zhou, S. Levine, C. Finn, "Meta-Learning without Memorization", 2020,
    arXiv 1912.03820, the variant on weights. Deviations: one sample for the support and query sets of all
    tasks of a step; no samples at test time; the paper's regularized weights do not adapt, as here with ANIL
    and other learners that share the backbone, while learners that adapt it start from noisy weights and
    keep the noise; log sigma is learned; sigma starts well above 0, but near 0 in the authors' code. The
    regularized parameters of the learner's network are renamed.
    """

    def __init__(self, *, beta: float = 5e-5, initial_sigma: float = 0.01) -> None:
        super().__init__()
        check_nonnegative(self, beta=beta)
        check_positive(self, initial_sigma=initial_sigma)
        self.beta, self.initial_sigma = beta, initial_sigma
        self.log_sigmas = nn.ParameterList()
        self._noises: list[_Noise] = []
        self._parametrized: list[Any] = []  # plain lists: what they hold stays the network's

    def bind(self, learner: NetworkLearner) -> None:
        super().bind(learner)
        if isinstance(learner, IMAML):
            raise MetaLensError(
                "MRMAML cannot act on IMAML, whose implicit gradient depends on the initialization, not on "
                "sigma; use MAML."
            )
        backbone = learner.network.backbone
        for name, layer in backbone.named_modules():
            if isinstance(layer, nn.RNNBase):
                raise MetaLensError(
                    f"MRMAML cannot act on {name}, a {type(layer).__name__}: recurrent layers keep a second "
                    "list of their weights, which noise would not reach; use another backbone."
                )
            if isinstance(layer, _Noise):
                raise MetaLensError(
                    "MRMAML: the weights of this network have noise of another MRMAML; give one MRMAML, and "
                    "build a new learner for every objective."
                )
        if not _weights(backbone):
            raise MetaLensError(
                f"MRMAML needs a backbone with trainable weights of two or more axes, and that of this "
                f"{type(learner).__name__} has none."
            )

    def wrap_network(self, network: Network) -> Network:
        if self._noises:
            raise MetaLensError("MRMAML: it already acts on another learner; make a new one.")
        for layer, name, mean in _weights(network.backbone):
            self.log_sigmas.append(nn.Parameter(torch.full_like(mean, math.log(self.initial_sigma))))
            noise = _Noise(self.log_sigmas, len(self.log_sigmas) - 1)
            register_parametrization(layer, name, noise)
            self._parametrized.append(layer.parametrizations[name])  # pyright: ignore[reportArgumentType, reportIndexIssue]
            self._noises.append(noise)
        return network

    def transform_tasks(self, tasks: Task) -> Task:
        for noise in self._noises:
            noise.draw()
        return tasks

    def loss_terms(self, adapted: AdaptedTasks) -> dict[str, Tensor]:
        means = [parametrized.original for parametrized in self._parametrized]
        divergences = [
            (mean.square() + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum() / 2
            for mean, log_sigma in zip(means, self.log_sigmas, strict=True)
        ]
        return {"mr_maml": self.beta * torch.stack(divergences).sum()}


class _Noise(nn.Module):
    """A parametrization of a weight: adds the last draw in training, and nothing at test time."""

    draws: Tensor

    def __init__(self, log_sigmas: nn.ParameterList, number: int) -> None:
        super().__init__()
        # The tuple hides them from the network's parameters, which learners may adapt.
        self.reads, self._number = (log_sigmas,), number
        self.register_buffer("draws", torch.zeros_like(log_sigmas[number]), persistent=False)

    def draw(self) -> None:
        self.draws = torch.randn_like(self.draws)

    def forward(self, mean: Tensor) -> Tensor:
        (log_sigmas,) = self.reads
        return mean + log_sigmas[self._number].exp() * self.draws if self.training else mean


def _weights(backbone: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Return the trainable parameters of two or more axes, with their layers and names there."""
    return [
        (layer, name, parameter)
        for layer in backbone.modules()
        for name, parameter in layer.named_parameters(recurse=False)
        if parameter.requires_grad and parameter.dim() >= 2
    ]
