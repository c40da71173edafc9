"""The network every learner works on: a backbone that makes features and a head that reads them."""

from typing import Self

from torch import Tensor, nn

from metalens.errors import MetaLensError
from metalens.fields import Fields
from metalens.networks.safe import is_unsafe
from metalens.networks.unpacking import Unpacking

_UNSAFE = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


class Network(nn.Module):
    """A backbone followed by a head: `network(x) = head(backbone(x))`.

    A network is a chain of stages: the children of a backbone that is an `nn.Sequential` (any other backbone
    is one stage), then the head. `network(x, start, stop)` runs a part of the chain.

    Args:
        backbone: `(n, *input_shape) -> (n, d)`; trailing axes are flattened.
        head: `(n, d) -> (n, c, ...)`; further axes are those of dense predictions, such as height and width.
        n_features: d.
        n_outputs: c.
        n_shared: number of first stages that all tasks share: only the outer loop trains them.
        vmap_refusal: why the network cannot run under `torch.vmap`, or `None`.

    Raises:
        MetaLensError: the backbone has fewer than `n_shared` stages, or the network contains a layer of
            PyTorch whose gradients would be wrong or undefined (normalization of activations or weights,
            recurrence, attention, an embedding with padding); `wrap` makes them safe. Custom layers are not
            examined here: `wrap` measures them.

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
        n_shared: int = 0,
        vmap_refusal: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.n_features, self.n_outputs = n_features, n_outputs
        self.n_shared, self.vmap_refusal = n_shared, vmap_refusal
        if self.depth == 0:
            raise MetaLensError("The backbone is an empty nn.Sequential; give nn.Identity() for no backbone.")
        if not 0 <= n_shared <= self.depth:
            raise MetaLensError(
                f"n_shared must be 0 to {self.depth}, the number of stages of the backbone, got {n_shared}."
            )
        self._check_layers()

    def _check_layers(self) -> None:
        for name, layer in self.named_modules():
            if is_unsafe(layer) or isinstance(layer, _UNSAFE):
                raise MetaLensError(
                    f"{name} is a {type(layer).__name__}, whose meta-gradients are wrong or undefined when "
                    "it is adapted; build the network with metalens.wrap(...), which makes it safe, or, for "
                    "batch normalization, use metalens.TransductiveBatchNorm."
                )

    @property
    def blocks(self) -> list[nn.Module]:
        """The stages of the backbone."""
        return list(self.backbone) if type(self.backbone) is nn.Sequential else [self.backbone]

    @property
    def fields(self) -> Fields | None:
        """The fields of packed inputs, which the backbone takes apart, or `None`."""
        return self.backbone.fields if isinstance(self.backbone, Unpacking) else None

    @property
    def depth(self) -> int:
        """The number of stages of the backbone; stage number `depth` is the head."""
        return len(self.blocks)

    def unshared_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters after the shared stages, by name."""
        shared = {p for block in self.blocks[: self.n_shared] for p in block.parameters()}
        return {name: p for name, p in self.named_parameters() if p not in shared}

    def shared_with_head(self) -> str | None:
        """Return the name of a parameter that belongs to the backbone and to the head, or `None`."""
        own = set(self.head.parameters())
        return next((f"backbone.{name}" for name, p in self.backbone.named_parameters() if p in own), None)

    def embed(self, x: Tensor) -> Tensor:
        """Return the features of n inputs, `(n, d)`."""
        return self(x, stop=self.depth)

    def forward(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run the stages from `start` up to and without `stop`; by default all of them.

        Args:
            x: the input of stage `start`, `(n, ...)`.
            start: 0 for the first stage of the backbone, `depth` for the head.
            stop: `depth` returns features `(n, d)`; `None` predictions `(n, c, ...)`.
        """
        stages = [*self.blocks, self.head]
        for number in range(start, len(stages) if stop is None else stop):
            x = stages[number](x)
            if number == len(stages) - 2:
                x = x.flatten(1)
        return x

    def headless(self) -> Self:
        """Return a network that shares the backbone and returns its features."""
        return self.with_head(nn.Identity(), self.n_features)

    def with_head(self, head: nn.Module, n_outputs: int) -> Self:
        """Return a network that shares the backbone and has another head."""
        return type(self)(
            self.backbone,
            head,
            n_features=self.n_features,
            n_outputs=n_outputs,
            n_shared=self.n_shared,
            vmap_refusal=self.vmap_refusal,
        )
