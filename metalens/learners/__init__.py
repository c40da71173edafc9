"""Learners: one method, one file, one citation."""

from metalens.learners.adkf import ADKF
from metalens.learners.anil import ANIL
from metalens.learners.base import AdaptedModel, Learner, NetworkLearner, State, task_loss
from metalens.learners.baselines.base import Baseline
from metalens.learners.baselines.boosting import Boosting
from metalens.learners.baselines.from_scratch import FromScratch
from metalens.learners.baselines.gaussian_process import GaussianProcess
from metalens.learners.baselines.in_context import TabICL, TabPFN
from metalens.learners.baselines.joint_model import JointModel
from metalens.learners.baselines.knn import KNN
from metalens.learners.baselines.linear_probe import LinearProbe
from metalens.learners.baselines.logistic_regression import LogisticRegression
from metalens.learners.baselines.mean_predictor import MeanPredictor
from metalens.learners.baselines.mixed_model import MixedModel
from metalens.learners.baselines.multi_task_gp import MultiTaskGP
from metalens.learners.baselines.nearest_centroid import NearestCentroid
from metalens.learners.baselines.profile_ridge import ProfileRidge
from metalens.learners.baselines.random_forest import RandomForest
from metalens.learners.baselines.residual_gp import ResidualGP
from metalens.learners.baselines.ridge import Ridge
from metalens.learners.baselines.seasonal_boosting import SeasonalBoosting
from metalens.learners.baselines.seasonal_naive import SeasonalNaive
from metalens.learners.baselines.shrunken import Shrunken
from metalens.learners.boil import BOIL
from metalens.learners.cavia import CAVIA
from metalens.learners.conditional_neural_process import ConditionalNeuralProcess
from metalens.learners.deep_kernel_gp import DeepKernelGP
from metalens.learners.deep_multi_task_gp import DeepMultiTaskGP
from metalens.learners.gradient import GradientLearner
from metalens.learners.imaml import IMAML
from metalens.learners.maml import MAML
from metalens.learners.maml_plus_plus import MAMLPlusPlus
from metalens.learners.matching_net import MatchingNet
from metalens.learners.meta_curvature import MetaCurvature
from metalens.learners.meta_opt_net import MetaOptNet
from metalens.learners.meta_sgd import MetaSGD
from metalens.learners.mtnet import MTNet
from metalens.learners.neural_process import NeuralProcess
from metalens.learners.proto_maml import ProtoMAML
from metalens.learners.protonet import ProtoNet
from metalens.learners.r2d2 import R2D2
from metalens.learners.reptile import Reptile
from metalens.learners.tnet import TNet
from metalens.learners.tnpd import TNPD

__all__ = [
    "ADKF",
    "ANIL",
    "BOIL",
    "CAVIA",
    "IMAML",
    "KNN",
    "MAML",
    "R2D2",
    "TNPD",
    "AdaptedModel",
    "Baseline",
    "Boosting",
    "ConditionalNeuralProcess",
    "DeepKernelGP",
    "DeepMultiTaskGP",
    "FromScratch",
    "GaussianProcess",
    "GradientLearner",
    "JointModel",
    "Learner",
    "LinearProbe",
    "LogisticRegression",
    "MAMLPlusPlus",
    "MTNet",
    "MatchingNet",
    "MeanPredictor",
    "MetaCurvature",
    "MetaOptNet",
    "MetaSGD",
    "MixedModel",
    "MultiTaskGP",
    "NearestCentroid",
    "NetworkLearner",
    "NeuralProcess",
    "ProfileRidge",
    "ProtoMAML",
    "ProtoNet",
    "RandomForest",
    "Reptile",
    "ResidualGP",
    "Ridge",
    "SeasonalBoosting",
    "SeasonalNaive",
    "Shrunken",
    "State",
    "TNet",
    "TabICL",
    "TabPFN",
    "task_loss",
]
