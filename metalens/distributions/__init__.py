"""Task distributions: data as functions from an index to a task."""

from metalens.distributions.arrays.arrays import ArrayTasks
from metalens.distributions.arrays.pose import Pose
from metalens.distributions.arrays.pose_render import render_poses
from metalens.distributions.arrays.series import M4Hourly, SeriesTasks
from metalens.distributions.base import BlockDistribution, Split, TaskDistribution
from metalens.distributions.curves.clustered_sinusoid import ClusteredSinusoid
from metalens.distributions.curves.curve import CurveDistribution
from metalens.distributions.curves.harmonic import Harmonic
from metalens.distributions.curves.sinusoid import Sinusoid
from metalens.distributions.functions import FunctionTasks, GeneratedTasks
from metalens.distributions.images.folders import ImageFolders
from metalens.distributions.images.omniglot import Omniglot
from metalens.distributions.multi_domain import MultiDomain
from metalens.distributions.tables.assays import PQSAR, ChemblAssays, FSMol
from metalens.distributions.tables.fingerprints import morgan_fingerprints
from metalens.distributions.tables.kiba import Kiba
from metalens.distributions.tables.parkinsons import Parkinsons
from metalens.distributions.tables.table import TableTasks

__all__ = [
    "PQSAR",
    "ArrayTasks",
    "BlockDistribution",
    "ChemblAssays",
    "ClusteredSinusoid",
    "CurveDistribution",
    "FSMol",
    "FunctionTasks",
    "GeneratedTasks",
    "Harmonic",
    "ImageFolders",
    "Kiba",
    "M4Hourly",
    "MultiDomain",
    "Omniglot",
    "Parkinsons",
    "Pose",
    "SeriesTasks",
    "Sinusoid",
    "Split",
    "TableTasks",
    "TaskDistribution",
    "morgan_fingerprints",
    "render_poses",
]
