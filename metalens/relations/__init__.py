"""Relations between tasks: matrices, models of related tasks, clusters."""

from metalens.relations.base import Relation
from metalens.relations.cosine import Cosine
from metalens.relations.known import Known
from metalens.relations.mutual import Mutual
from metalens.relations.shuffled import Shuffled
from metalens.relations.uniform import Uniform

__all__ = ["Cosine", "Known", "Mutual", "Relation", "Shuffled", "Uniform"]
