"""Learners: one method, one file, one citation."""

from metalens.learners.anil import ANIL
from metalens.learners.base import AdaptedModel, Learner, State, task_loss
from metalens.learners.gradient import GradientLearner
from metalens.learners.maml import MAML
from metalens.learners.protonet import ProtoNet

__all__ = ["ANIL", "MAML", "AdaptedModel", "GradientLearner", "Learner", "ProtoNet", "State", "task_loss"]
