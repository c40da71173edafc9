"""Task distributions: data as functions from an index to a task."""

from metalens.data.arrays import ArrayTasks
from metalens.data.base import BlockDistribution, Split, TaskDistribution
from metalens.data.catalog.assays import PQSAR, ChemblAssays, FSMol, Kiba
from metalens.data.catalog.m4 import M4Hourly
from metalens.data.catalog.omniglot import Omniglot
from metalens.data.catalog.parkinsons import Parkinsons
from metalens.data.catalog.pose import Pose
from metalens.data.functions import FunctionTasks, GeneratedTasks
from metalens.data.images.folders import ImageFolders
from metalens.data.multi_domain import MultiDomain
from metalens.data.series import SeriesTasks
from metalens.data.synthetic.clustered_sinusoid import ClusteredSinusoid
from metalens.data.synthetic.curve import CurveDistribution
from metalens.data.synthetic.harmonic import Harmonic
from metalens.data.synthetic.sinusoid import Sinusoid
from metalens.data.tables.molecules import morgan_fingerprints
from metalens.data.tables.table import TableTasks

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
]
