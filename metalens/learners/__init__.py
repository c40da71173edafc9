"""Learners: one method, one file, one citation."""

from metalens.learners.anil import ANIL
from metalens.learners.base import AdaptedModel, Learner, State, task_loss
from metalens.learners.boil import BOIL
from metalens.learners.deep_kernel_gp import DeepKernelGP
from metalens.learners.from_scratch import FromScratch
from metalens.learners.gaussian_process import GaussianProcess
from metalens.learners.global_model import GlobalModel
from metalens.learners.gradient import GradientLearner
from metalens.learners.imaml import IMAML
from metalens.learners.knn import KNN
from metalens.learners.linear_probe import LinearProbe
from metalens.learners.logistic_regression import LogisticRegression
from metalens.learners.maml import MAML
from metalens.learners.maml_plus_plus import MAMLPlusPlus
from metalens.learners.matching_net import MatchingNet
from metalens.learners.mean import Mean
from metalens.learners.meta_sgd import MetaSGD
from metalens.learners.mtnet import MTNet
from metalens.learners.nearest_mean import NearestMean
from metalens.learners.profile import Profile
from metalens.learners.proto_maml import ProtoMAML
from metalens.learners.protonet import ProtoNet
from metalens.learners.r2d2 import R2D2
from metalens.learners.random_forest import RandomForest
from metalens.learners.reptile import Reptile
from metalens.learners.ridge import Ridge
from metalens.learners.seasonal_naive import SeasonalNaive
from metalens.learners.tnet import TNet

__all__ = [
    "ANIL",
    "BOIL",
    "IMAML",
    "KNN",
    "MAML",
    "R2D2",
    "AdaptedModel",
    "DeepKernelGP",
    "FromScratch",
    "GaussianProcess",
    "GlobalModel",
    "GradientLearner",
    "Learner",
    "LinearProbe",
    "LogisticRegression",
    "MAMLPlusPlus",
    "MTNet",
    "MatchingNet",
    "Mean",
    "MetaSGD",
    "NearestMean",
    "Profile",
    "ProtoMAML",
    "ProtoNet",
    "RandomForest",
    "Reptile",
    "Ridge",
    "SeasonalNaive",
    "State",
    "TNet",
    "task_loss",
]
