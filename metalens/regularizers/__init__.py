"""Regularizers: one method, one file, one citation."""

from metalens.regularizers.base import Regularizer
from metalens.regularizers.trlearner import TRLearner

__all__ = ["Regularizer", "TRLearner"]
