"""Task vectors, which `Cosine` compares."""

from typing import Literal

import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError
from metalens.learners import NetworkLearner
from metalens.learners.classification import check_one_class, class_means, one_hot

TaskVector = Literal["features", "labeled", "adaptation"]


def task_vectors(adapted: AdaptedTasks, kind: TaskVector) -> Tensor:
    """Return the vectors of the T tasks of all processes, `(T, slots, d)`.

    `"features"`: mean support features, one slot; `"labeled"`: a slot per class with its mean features, or
    per real target with the mean of feature times target; `"adaptation"`: displacement of the adapted
    parameters, one slot.

    >>> from metalens import MAML, Sinusoid, mlp
    >>> adapted = AdaptedTasks(MAML(mlp()), Sinusoid().batch(range(4)))
    >>> task_vectors(adapted, "features").shape
    torch.Size([4, 1, 40])
    """
    if kind == "adaptation":
        before, after = adapted.learner.adapted_parameters(), adapted.all_states
        moves = [(after[name] - value).flatten(1) for name, value in before.items()]
        return torch.cat(moves, dim=1).unsqueeze(1)
    features, y = adapted.support_features, adapted.tasks.support.y
    if kind == "features":
        own = features.mean(1, keepdim=True)
    elif y.is_floating_point():
        own = y.mT @ features / y.shape[1]
    else:
        check_one_class("vector='labeled'", y)
        n_classes = adapted.query_predictions.shape[-1]
        own = class_means(features, one_hot(y, n_classes, features.dtype))
    return adapted.processes.all_gather(own)


def vector_length(learner: NetworkLearner, kind: TaskVector) -> int:
    """Return the length d of the task vectors of a learner.

    Raises:
        MetaLensError: the learner has no adapted parameters to compare.

    >>> from metalens import MAML, mlp
    >>> vector_length(MAML(mlp()), "adaptation")
    1761
    """
    if kind != "adaptation":
        return learner.network.n_features
    length = sum(parameter.numel() for parameter in learner.adapted_parameters().values())
    if length == 0:
        raise MetaLensError(
            "vector='adaptation' needs parameters that adapt, and "
            f"{type(learner).__name__} has none; use 'features' or 'labeled'."
        )
    return length
