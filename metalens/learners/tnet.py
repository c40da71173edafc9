"""Layers with a learned transformation that does not adapt."""

import torch
from torch import nn

from metalens.errors import MetaLensError
from metalens.learners.base import State
from metalens.learners.maml import MAML
from metalens.networks import Network

_Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


class TNet(MAML):
    """MAML in which every layer is followed by a linear transformation learned in the outer loop alone.

    `layer(x) = T (W x) + b`: W and b adapt, the square matrix T, at first the identity, does not. T acts on
    the output units of a linear layer and on the output channels of a convolution, so the inner loop
    descends in a learned metric.

    Settings: see `GradientLearner`.

    Raises:
        MetaLensError: no linear or convolutional layer of the network adapts.

    >>> from metalens import TNet, mlp
    >>> [tuple(t.shape) for t in TNet(mlp(1, 1, [8])).transforms]
    [(8, 8), (1, 1)]

    Source: Y. Lee, S. Choi, "Gradient-Based Meta-Learning with Learned Layerwise Metric and Subspace", 2018,
    arXiv 1801.05558. Deviations: T is multiplied into W instead of being a layer of its own, which computes
    the same; the bias is added after T; grouped convolutions, and parameters that belong to no linear or
    convolutional layer, adapt without T.
    """

    transforms: nn.ParameterList

    def set_network(self, network: Network) -> None:
        super().set_network(network)
        adapted = self.adapted_parameters()
        self._transformed = [name for name in _weight_names(network) if name in adapted]
        if not self._transformed:
            raise MetaLensError(
                f"{type(self).__name__} needs a linear or convolutional layer that adapts, and the network "
                "has none; use MAML."
            )
        self.transforms = nn.ParameterList(
            torch.eye(len(adapted[name]), dtype=adapted[name].dtype, device=adapted[name].device)
            for name in self._transformed
        )

    def weights(self, state: State) -> State:
        transformed = {
            name: (transform @ state[name].flatten(1)).view_as(state[name])
            for name, transform in zip(self._transformed, self.transforms, strict=True)
        }
        return {**state, **transformed}


def _weight_names(network: Network) -> list[str]:
    """Return the names of the weights of all linear and ungrouped convolutional layers."""
    layers = (layer for layer in network.modules() if isinstance(layer, _Layer))
    ungrouped = (layer for layer in layers if getattr(layer, "groups", 1) == 1)
    own = "weight", "parametrizations.weight.original"  # the latter with noise or another parametrization
    weights = {id(p) for layer in ungrouped for name, p in layer.named_parameters() if name in own}
    return [name for name, p in network.named_parameters() if id(p) in weights]
