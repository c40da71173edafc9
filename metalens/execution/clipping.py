"""Clip the meta-gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor


def clip_gradients(
    gradients: Sequence[Tensor], n_replicas: int, max_norm: float | None, *, zero_nonfinite: bool
) -> Tensor:
    """Clip the gradient of each replica in place; return the norms before, `(R,)`.

    Args:
        gradients: of the weights.
        n_replicas: number R of objectives side by side; gradients of several have it as their first axis.
        max_norm: largest norm, or `None` for no limit.
        zero_nonfinite: whether entries that are not finite are set to 0 first.

    >>> gradient = torch.tensor([3.0, 4.0])
    >>> clip_gradients([gradient], 1, 2.5, zero_nonfinite=True), gradient
    (tensor([5.]), tensor([1.5000, 2.0000]))
    """
    norms = before = _norms(gradients, n_replicas)
    if zero_nonfinite:
        for gradient in gradients:
            gradient.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        norms = _norms(gradients, n_replicas)
    if max_norm is not None:
        factors = (max_norm / (norms + 1e-6)).clamp(max=1)  # as in PyTorch
        for gradient in gradients:  # of a single objective without an axis for replicas
            gradient.mul_(factors[0] if n_replicas == 1 else factors.view(-1, *[1] * (gradient.dim() - 1)))
    return before


def _norms(gradients: Sequence[Tensor], n_replicas: int) -> Tensor:
    of_each = [gradient.reshape(n_replicas, -1).norm(dim=1) for gradient in gradients]
    return torch.stack(of_each).norm(dim=0)
