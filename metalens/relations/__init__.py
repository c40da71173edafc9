"""Relations between tasks: matrices, models of related tasks, clusters."""

from metalens.relations.base import Relation
from metalens.relations.controls import Known, Shuffled, Uniform
from metalens.relations.cosine import Cosine
from metalens.relations.mutual import Mutual
from metalens.relations.stacked import Stacked

__all__ = ["Cosine", "Known", "Mutual", "Relation", "Shuffled", "Stacked", "Uniform"]
