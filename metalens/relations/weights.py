"""From relations to the weights of the models of other tasks."""

import torch
from torch import Tensor

MIN_ROW_SUM = 1e-6


def model_weights(
    matrix: Tensor, neighbors: int | None, first: int = 0, *, signed: bool = False
) -> tuple[Tensor | None, Tensor]:
    """Return which models predict each task's queries, and their weights `(T, k)`.

    Args:
        matrix: relations `(T, n)` of the tasks `first ... first + T - 1` to all n tasks.
        neighbors: k, or `None` for all tasks.
        first: number of the first row's task.
        signed: the relations are weights already, see `Relation`.

    Returns:
        Indices `(T, k)` of the k nearest tasks, or `None` for all tasks in their order; and the weights, 0
        for a task's own model. If not signed, negative relations count as 0 and the rows sum to 1.

    >>> model_weights(torch.tensor([[1.0, -0.5, -0.2], [-0.5, 1.0, 0.3], [-0.2, 0.3, 1.0]]), None)[1]
    tensor([[0.0000, 0.5000, 0.5000],
            [0.0000, 0.0000, 1.0000],
            [0.0000, 1.0000, 0.0000]])
    """
    n = matrix.shape[1]
    itself = torch.eye(n, dtype=torch.bool, device=matrix.device)[first : first + len(matrix)]
    if signed:
        return None, matrix.masked_fill(itself, 0.0)
    if neighbors is None or neighbors >= n - 1:
        models, related, equal = None, matrix.masked_fill(itself, 0.0), (~itself) / (n - 1)
    else:
        related, models = matrix.masked_fill(itself, -torch.inf).topk(neighbors, dim=1)
        equal = torch.full_like(related, 1 / neighbors)
    related = related.clamp(min=0)
    total = related.sum(1, keepdim=True)
    # The total must be safe in the branch that is not taken too, for a finite gradient.
    weights = related / total.clamp(min=MIN_ROW_SUM)
    return models, torch.where(total < MIN_ROW_SUM, equal, weights)
