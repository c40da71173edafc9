"""What `import metalens` offers."""

from metalens import distributions, learners, networks, regularizers, samplers
from metalens.distributions import *
from metalens.episode import Episode
from metalens.errors import DivergenceError, MetaLensError
from metalens.evaluation import evaluate
from metalens.learners import *
from metalens.networks import *
from metalens.objective import Objective
from metalens.outer_loop import Validation
from metalens.regularizers import *
from metalens.related_models import RelatedModels
from metalens.replicas import ReplicationError
from metalens.samplers import *
from metalens.tasks import Examples, Task, stack_tasks
from metalens.training import fit, fit_together

__all__ = [
    "DivergenceError",
    "Episode",
    "Examples",
    "MetaLensError",
    "Objective",
    "RelatedModels",
    "ReplicationError",
    "Task",
    "Validation",
    "evaluate",
    "fit",
    "fit_together",
    "stack_tasks",
]
__all__ += distributions.__all__
__all__ += learners.__all__
__all__ += networks.__all__
__all__ += regularizers.__all__
__all__ += samplers.__all__
