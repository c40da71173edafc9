"""The network every learner works on: a backbone that makes features and a head that reads them."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from metalens.errors import MetaLensError
from metalens.networks.norm import is_unsafe_norm

_UNSAFE = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


class Network(nn.Module):
    """A backbone followed by a head: `network(x) = head(backbone(x))`.

    Args:
        backbone: `(n, *input_shape) -> (n, d)`; trailing axes are flattened.
        head: `(n, d) -> (n, c)`.
        n_features: d.
        n_outputs: c.
        vmap_refusal: why the network cannot run under `torch.vmap`, or `None` where it can.

    Raises:
        MetaLensError: the network contains a normalization, recurrent or attention layer of PyTorch, whose
            gradients would be wrong or undefined; `wrap` makes them safe. Custom layers are not examined
            here: `wrap` measures them.

    >>> import torch
    >>> network = Network(nn.Linear(3, 8), nn.Linear(8, 2), n_features=8, n_outputs=2)
    >>> network(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        n_features: int,
        n_outputs: int,
        vmap_refusal: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.n_features, self.n_outputs = n_features, n_outputs
        self.vmap_refusal = vmap_refusal
        self._check_layers()

    def _check_layers(self) -> None:
        for name, layer in self.named_modules():
            if is_unsafe_norm(layer) or isinstance(layer, _UNSAFE):
                raise MetaLensError(
                    f"{name} is a {type(layer).__name__}, whose meta-gradients are wrong or undefined when "
                    "it is adapted; build the network with metalens.wrap(...), which makes it safe, or use "
                    "metalens.TaskNorm."
                )

    def embed(self, x: Tensor) -> Tensor:
        """Return the features of n inputs, `(n, d)`."""
        return self.backbone(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))

    def headless(self) -> Self:
        """Return a network that shares the backbone and returns its features.

        >>> import torch
        >>> network = Network(nn.Linear(3, 8), nn.Linear(8, 2), n_features=8, n_outputs=2)
        >>> network.headless()(torch.zeros(5, 3)).shape
        torch.Size([5, 8])
        """
        return type(self)(
            self.backbone,
            nn.Identity(),
            n_features=self.n_features,
            n_outputs=self.n_features,
            vmap_refusal=self.vmap_refusal,
        )
