"""Deconfounding by dropout of the shared features, and by bins of them with a head each."""

import torch
from torch import Tensor, nn

from metalens.errors import MetaLensError, check_counts
from metalens.learners import IMAML, NetworkLearner
from metalens.networks import Network
from metalens.regularizers.base import Regularizer


class DropoutBins(Regularizer):
    """Average predictions over dropout samples of the features and over bins of them.

    The d features are divided into B bins of neighbors, each with its own linear head. In training each of S
    masks keeps a feature with probability 1 - p:

        f(x) = (1 / (S B)) sum_s sum_b head_b( m_sb * g_b(x) / (1 - p) ),  m_sb ~ Bernoulli(1 - p)

    At test time nothing is dropped. `n_bins=1` is dropout alone, `p=0` bins alone.

    Args:
        n_bins: B; bin sizes differ by one if d is not a multiple of B.
        n_samples: S.
        p: probability of dropping a feature, in [0, 1).

    Raises:
        MetaLensError: a setting is out of range; the network has no linear head, or fewer features than bins;
            dropout with IMAML.

    >>> from metalens import DropoutBins, MAML, Objective, mlp
    >>> objective = Objective(MAML(mlp(hidden=[6])), [DropoutBins(n_bins=2)])
    >>> [tuple(head.weight.shape) for head in objective.learner.network.head.heads]
    [(1, 3), (1, 3)]

    Source: Y. Jiang and others, "The Role of Deconfounding in Meta-learning", 2022, ICML; its two methods in
    one class. Choices of this implementation: masks are drawn for every example in every forward pass; bins
    are neighbors; the outputs of the heads (logits in classification) are averaged; heads have PyTorch's
    default initialization; all default values. It replaces the head of the learner's network.
    """

    def __init__(self, *, n_bins: int = 2, n_samples: int = 4, p: float = 0.1) -> None:
        super().__init__()
        check_counts(self, n_bins=n_bins, n_samples=n_samples)
        if not 0 <= p < 1:
            raise MetaLensError(f"DropoutBins: p must be 0 or more and below 1, got {p}.")
        self.n_bins, self.n_samples, self.p = n_bins, n_samples, p

    def bind(self, learner: NetworkLearner) -> None:
        super().bind(learner)
        network = learner.network
        if not isinstance(network.head, nn.Linear):
            raise MetaLensError(
                f"DropoutBins needs a linear head to replace, and {type(learner).__name__} has one of type "
                f"{type(network.head).__name__}; use a learner that predicts by its network's head, such as "
                "MAML or ANIL, and one DropoutBins."
            )
        if network.n_features < self.n_bins:
            raise MetaLensError(
                f"DropoutBins: {self.n_bins} bins need as many features, and the network has "
                f"{network.n_features}; lower n_bins."
            )
        if isinstance(learner, IMAML) and self.p > 0:
            raise MetaLensError(
                "DropoutBins: the inner loop of IMAML must converge, which it cannot if masks change from "
                "step to step; set p=0, or use MAML."
            )

    def wrap_network(self, network: Network) -> Network:
        new = _BinnedHead(network.n_features, network.n_outputs, self.n_bins, self.n_samples, self.p)
        old = next(network.head.parameters())
        network.head = new.to(old.device, old.dtype)
        return network


class _BinnedHead(nn.Module):
    def __init__(self, n_features: int, n_outputs: int, n_bins: int, n_samples: int, p: float) -> None:
        super().__init__()
        self.sizes = [len(part) for part in torch.arange(n_features).tensor_split(n_bins)]
        self.heads = nn.ModuleList(nn.Linear(size, n_outputs) for size in self.sizes)
        self.n_samples, self.p = n_samples, p

    def forward(self, z: Tensor) -> Tensor:
        if self.training and self.p > 0:
            # The heads are linear: the mean of their predictions is the prediction of the mean.
            kept = torch.rand_like(z.expand(self.n_samples, *z.shape)) >= self.p
            z = z * kept.to(z.dtype).mean(0) / (1 - self.p)
        bins = z.split(self.sizes, dim=-1)
        return torch.stack([head(part) for head, part in zip(self.heads, bins, strict=True)]).mean(0)
