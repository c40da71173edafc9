"""Task distributions: data as functions from an index to a task."""

from metalens.distributions.arrays import ArrayTasks
from metalens.distributions.assays import PQSAR, ChemblAssays, FSMol
from metalens.distributions.base import BlockDistribution, Split, TaskDistribution
from metalens.distributions.clustered_sinusoid import ClusteredSinusoid
from metalens.distributions.curve import CurveDistribution
from metalens.distributions.fingerprints import morgan_fingerprints
from metalens.distributions.functions import FunctionTasks, GeneratedTasks
from metalens.distributions.harmonic import Harmonic
from metalens.distributions.image_folders import ImageFolders
from metalens.distributions.kiba import Kiba
from metalens.distributions.multi_domain import MultiDomain
from metalens.distributions.omniglot import Omniglot
from metalens.distributions.parkinsons import Parkinsons
from metalens.distributions.pose import Pose
from metalens.distributions.pose_render import render_poses
from metalens.distributions.series import M4Hourly, SeriesTasks
from metalens.distributions.sinusoid import Sinusoid
from metalens.distributions.table import TableTasks

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
