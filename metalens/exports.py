"""What `import metalens` offers."""

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from metalens.estimators import MetaClassifier, MetaRegressor

__all__ = [
    "DivergenceError",
    "Episode",
    "Examples",
    "MetaClassifier",
    "MetaLensError",
    "MetaRegressor",
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


def __getattr__(name: str) -> object:
    if name not in ("MetaClassifier", "MetaRegressor"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from metalens import estimators  # they need scikit-learn, which takes as long to import as all others

    return getattr(estimators, name)
