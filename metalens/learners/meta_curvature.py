"""Gradients transformed by learned matrices."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metalens.learners.base import State
from metalens.learners.maml import MAML
from metalens.networks import Network


class MetaCurvature(MAML):
    """MAML whose inner gradients are transformed by learned matrices, one for each mode of a parameter.

    `theta_{t+1} = theta_t - alpha * M vec(grad L(support; theta_t))`, where for each parameter M is a
    Kronecker product of small matrices, at first identities, which are learned in the outer loop:

        weights (o, i) of a linear layer: M_o G M_i^T, that is M = M_o ⊗ M_i
        weights (o, i, h, w) of a convolution: M = M_o ⊗ M_i ⊗ M_f, with M_f of the h w places together
        biases and other vectors: M g

    The matrices do not depend on the task: they turn and scale the steps, as the inverse of a curvature does,
    and couple the steps of different weights, unlike `MetaSGD`.

    Settings: see `GradientLearner`; an inner optimizer with momentum reads the transformed gradients.

    >>> from metalens import MetaCurvature, mlp
    >>> [tuple(matrix.shape) for matrix in MetaCurvature(mlp(2, 1, [8])).matrices]
    [(8, 8), (2, 2), (8, 8), (1, 1), (8, 8), (1, 1)]

    Source: E. Park, J. Oliva, "Meta-Curvature", 2019, arXiv 1902.03356. Deviation: biases have a
    matrix, too.
    """

    matrices: nn.ParameterList

    def set_network(self, network: Network) -> None:
        super().set_network(network)
        folded = {name: _folded(p) for name, p in self.adapted_parameters().items()}
        self._n_modes = {name: p.dim() for name, p in folded.items()}
        self.matrices = nn.ParameterList(
            torch.eye(size, dtype=p.dtype, device=p.device) for p in folded.values() for size in p.shape
        )

    def transform(self, gradients: State) -> State:
        matrices = iter(self.matrices)
        return {
            name: _curved(gradients[name], [next(matrices) for _ in range(n)])
            for name, n in self._n_modes.items()
        }


def _folded(tensor: Tensor) -> Tensor:
    """Return a tensor with at least one and at most three modes: output, input, places of a filter."""
    return tensor.flatten(2) if tensor.dim() > 2 else torch.atleast_1d(tensor)


def _curved(gradient: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Return a gradient whose every mode is multiplied by its matrix."""
    folded = _folded(gradient)
    for mode, matrix in enumerate(matrices):
        folded = (folded.movedim(mode, -1) @ matrix.T).movedim(-1, mode)
    return folded.reshape(gradient.shape)
