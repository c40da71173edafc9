"""Task distributions: data as functions from an index to a task."""

from metalens.distributions.base import BlockDistribution, Split, TaskDistribution
from metalens.distributions.clustered_sinusoid import ClusteredSinusoid
from metalens.distributions.curve import CurveDistribution
from metalens.distributions.harmonic import Harmonic
from metalens.distributions.omniglot import Omniglot
from metalens.distributions.sinusoid import Sinusoid

__all__ = [
    "BlockDistribution",
    "ClusteredSinusoid",
    "CurveDistribution",
    "Harmonic",
    "Omniglot",
    "Sinusoid",
    "Split",
    "TaskDistribution",
]
