"""Agreement of relations with the descriptors of tasks."""

import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks


def descriptor_agreement(matrix: Tensor, adapted: AdaptedTasks) -> Tensor | None:
    """Return Spearman's correlation of the relations of all tasks with minus the distance of descriptors.

    `None` if tasks have no descriptors, or relations or distances are all equal.
    """
    if adapted.tasks.descriptors.shape[-1] == 0:
        return None
    descriptors = adapted.processes.all_gather(adapted.tasks.descriptors)
    pairs = torch.triu_indices(*matrix.shape, offset=1, device=matrix.device).unbind()
    distances = (descriptors.unsqueeze(1) - descriptors).square().sum(-1)
    agreement = rank_correlation(matrix[pairs], -distances[pairs])
    return agreement if agreement.isfinite() else None


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's correlation of two lists of numbers; nan if one of them is constant.

    >>> rank_correlation(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([0.0, 5.0, 5.0]))
    tensor(0.8660, dtype=torch.float64)
    """
    from scipy.stats import rankdata  # slow to import

    ranks = rankdata(torch.stack([a.double(), b.double()]).cpu().numpy(), axis=1)
    return torch.corrcoef(torch.from_numpy(ranks))[0, 1]
