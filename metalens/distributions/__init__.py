"""Task distributions: data as functions from an index to a task."""

from metalens.distributions.base import BlockDistribution, Split, TaskDistribution
from metalens.distributions.clustered_sinusoid import ClusteredSinusoid
from metalens.distributions.curve import CurveDistribution
from metalens.distributions.fingerprints import morgan_fingerprints
from metalens.distributions.harmonic import Harmonic
from metalens.distributions.image_folders import ImageFolders
from metalens.distributions.kiba import Kiba
from metalens.distributions.multi_domain import MultiDomain
from metalens.distributions.omniglot import Omniglot
from metalens.distributions.sinusoid import Sinusoid
from metalens.distributions.table import TableTasks

__all__ = [
    "BlockDistribution",
    "ClusteredSinusoid",
    "CurveDistribution",
    "Harmonic",
    "ImageFolders",
    "Kiba",
    "MultiDomain",
    "Omniglot",
    "Sinusoid",
    "Split",
    "TableTasks",
    "TaskDistribution",
    "morgan_fingerprints",
]
