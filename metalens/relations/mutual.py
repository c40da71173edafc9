"""Relations from how well the models of two tasks predict each other's support sets."""

import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import check_positive
from metalens.relations.base import Relation


class Mutual(Relation):
    """The excess loss of the models of two tasks on each other's support sets.

        m_ij = exp(-d_ij / tau),    d_ij = max(0, (L(f_j; S_i) - L(f_i; S_i) + L(f_i; S_j) - L(f_j; S_j)) / 2)

    Outputs must have the same meaning in all tasks.

    Args:
        temperature: tau, in the units of the loss; by default the mean of d between tasks.

    Raises:
        MetaLensError: temperature is not above 0 and finite.

    >>> from metalens import MAML, AdaptedTasks, Sinusoid, mlp
    >>> Mutual()(AdaptedTasks(MAML(mlp()), Sinusoid().batch(range(4)))).shape
    torch.Size([4, 4])

    Source: ours.
    """

    title = "mutual predictions"

    def __init__(self, *, temperature: float | None = None) -> None:
        super().__init__()
        check_positive(self, temperature=temperature)
        self.temperature = temperature

    def forward(self, adapted: AdaptedTasks) -> Tensor:
        losses = adapted.processes.all_gather(adapted.cross_support_losses())  # [i, p]: model p, support of i
        excess = losses - losses.diagonal().unsqueeze(1)
        distances = ((excess + excess.T) / 2).clamp(min=0)
        n = len(distances)
        scale = distances.sum() / (n * (n - 1)) if self.temperature is None else self.temperature
        return adapted.own(torch.exp(-distances / (scale + torch.finfo(distances.dtype).tiny)))
