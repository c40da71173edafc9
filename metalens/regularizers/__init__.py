"""Regularizers: one method, one file, one citation."""

from metalens.regularizers.base import Regularizer
from metalens.regularizers.cross_task_confidence import CrossTaskConfidencePenalty
from metalens.regularizers.dropout_bins import DropoutBins
from metalens.regularizers.label_smoothing import LabelSmoothing
from metalens.regularizers.meta_aug import MetaAug
from metalens.regularizers.metacrl import MetaCRL
from metalens.regularizers.metamix import MetaMix
from metalens.regularizers.mlti import MLTI
from metalens.regularizers.mr_maml import MRMAML
from metalens.regularizers.taml import TAML
from metalens.regularizers.trlearner import TRLearner

__all__ = [
    "MLTI",
    "MRMAML",
    "TAML",
    "CrossTaskConfidencePenalty",
    "DropoutBins",
    "LabelSmoothing",
    "MetaAug",
    "MetaCRL",
    "MetaMix",
    "Regularizer",
    "TRLearner",
]
