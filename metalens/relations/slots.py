"""Which class slot of one task is which of another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError
from metalens.relations.vectors import class_means


def slot_maps(adapted: AdaptedTasks, models: Tensor | None, n_classes: int, temperature: float) -> Tensor:
    """Return soft maps from the class slots of each task to those of others, by their class prototypes.

    `softmax(cos(prototype_k, prototype_l) / temperature)` over the slots l of the other task.

    Args:
        adapted: T tasks of c classes.
        models: the k other tasks of each task, `(T, k)`; `None` for all tasks in their order.
        n_classes: c.
        temperature: the smaller, the harder the maps.

    Returns:
        `(T, k, c, c)`, rows summing to 1.

    Raises:
        MetaLensError: the targets are real.
    """
    y = adapted.tasks.support.y
    if y.is_floating_point():
        raise MetaLensError("TRLearner: slot_temperature is for classification, got real targets.")
    prototypes = F.normalize(class_means(adapted.support_features, y, n_classes), dim=-1)
    others = adapted.processes.all_gather(prototypes)
    others = others.unsqueeze(0) if models is None else others[models]  # (1 or T, k, c, d)
    similarity = prototypes.unsqueeze(1) @ others.mT  # (T, k, c, c)
    return torch.softmax(similarity / temperature, dim=-1)
