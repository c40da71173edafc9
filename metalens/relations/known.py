"""Relations from the known descriptors of tasks."""

from __future__ import annotations

import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError
from metalens.relations.base import Relation, check_positive


class Known(Relation):
    """A Gaussian kernel of the descriptors t of two tasks: a control with accurate relations.

        m_ij = exp(-||t_i - t_j||^2 / (2 s^2))

    Args:
        scale: s, in the units of the descriptors. By default `2 s^2` is the variance in the batch, summed
            over descriptors: half the mean squared distance between its tasks.

    Raises:
        MetaLensError: scale is not above 0 and finite; the tasks have no descriptors.

    >>> from metalens import MAML, AdaptedTasks, Sinusoid, mlp
    >>> Known(scale=1.0)(AdaptedTasks(MAML(mlp()), Sinusoid().batch(range(4)))).shape
    torch.Size([4, 4])

    Source: ours.
    """

    title = "known relations, by descriptors"

    def __init__(self, *, scale: float | None = None) -> None:
        super().__init__()
        check_positive(self, scale=scale)
        self.scale = scale

    def forward(self, adapted: AdaptedTasks) -> Tensor:
        own = adapted.tasks.descriptors
        if own.shape[-1] == 0:
            raise MetaLensError(
                "Known relations needs tasks with descriptors, got tasks without; let their distribution "
                "return Task(support, query, descriptors), or use another relation, such as Cosine."
            )
        descriptors = adapted.processes.all_gather(own)
        distances = (own.unsqueeze(1) - descriptors).square().sum(-1)
        scale = descriptors.var(0).sum() if self.scale is None else 2 * self.scale**2
        return torch.exp(-distances / (scale + torch.finfo(descriptors.dtype).tiny))  # tasks may be equal
