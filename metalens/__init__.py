"""MetaLens: meta-learning as a function from a task to a model, with relation-aware regularization."""

from metalens.distributions import BlockDistribution, Harmonic, Omniglot, Sinusoid, TaskDistribution
from metalens.episode import Episode
from metalens.errors import MetaLensError
from metalens.evaluation import evaluate
from metalens.learners import ANIL, MAML, AdaptedModel, GradientLearner, Learner, ProtoNet, task_loss
from metalens.networks import Network, TaskNorm, conv4, mlp, wrap
from metalens.objective import Objective
from metalens.regularizers import Regularizer, TRLearner
from metalens.tasks import Examples, Task, stack_tasks
from metalens.training import Validation, fit

__version__ = "0.1.0"

__all__ = [
    "ANIL",
    "MAML",
    "AdaptedModel",
    "BlockDistribution",
    "Episode",
    "Examples",
    "GradientLearner",
    "Harmonic",
    "Learner",
    "MetaLensError",
    "Network",
    "Objective",
    "Omniglot",
    "ProtoNet",
    "Regularizer",
    "Sinusoid",
    "TRLearner",
    "Task",
    "TaskDistribution",
    "TaskNorm",
    "Validation",
    "conv4",
    "evaluate",
    "fit",
    "mlp",
    "stack_tasks",
    "task_loss",
    "wrap",
]
