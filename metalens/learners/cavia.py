"""Adaptation of a few context parameters."""

from typing import Unpack

from torch import Tensor, nn

from metalens.errors import MetaLensError
from metalens.learners.base import State
from metalens.learners.gradient import GradientLearner, InnerSettings
from metalens.networks import Network


class CAVIA(GradientLearner):
    """Gradient steps on a short context vector that enters one layer; the network is shared by all tasks.

    `phi_0 = 0`, `phi_{t+1} = phi_t - alpha * grad_phi L(support; theta, phi_t)`; outer loss
    `L(query; theta, phi)` by theta, differentiated through the inner steps.

    The context phi, `n_context` numbers, enters one layer through learned matrices V:

        layer with a bias: W x + b + V phi, which is the layer W' [x, phi] + b
        normalization: (g + V_g phi) * normalized x + b + V_b phi, which is FiLM

    For a linear layer it is as if phi were appended to the input, for a convolution as if it were appended as
    constant channels that go on beyond the border, and for a recurrent layer as an input of every step.

    Args:
        network: the backbone and head; none of its parameters adapts.
        n_context: length of phi.
        layer: name of the layer in the network, such as `"backbone.2"`; by default the first normalization
            with a scale and a shift, which would cancel a bias before it, or else the first layer with a
            bias. It is after the stages that all tasks share.
        **settings: see `GradientLearner`, without `adapting`.

    Raises:
        MetaLensError: a setting is out of range, or there is no such layer with a bias.

    >>> from metalens import CAVIA, Sinusoid, mlp
    >>> learner = CAVIA(mlp(), n_context=3, inner_lr=1.0)
    >>> {name: tuple(value.shape) for name, value in learner.adapt(Sinusoid("test")[0].support).items()}
    {'context': (3,)}

    Source: L. Zintgraf, K. Shiarlis, V. Kurin, K. Hofmann, S. Whiteson, "Fast Context Adaptation via
    Meta-Learning", 2019, arXiv 1810.03642. Deviations: the initialization of V, that of a linear layer that
    reads phi alone; FiLM at the first normalization of a network, not behind its third block; any layer with
    a bias.
    """

    maps: nn.ModuleList
    context: nn.Parameter

    def __init__(
        self,
        network: Network,
        *,
        n_context: int = 5,
        layer: str | None = None,
        **settings: Unpack[InnerSettings],
    ) -> None:
        if n_context < 1:
            raise MetaLensError(f"CAVIA: n_context must be at least 1, got {n_context}.")
        if settings.get("adapting") is not None:
            raise MetaLensError("CAVIA adapts its context alone; leave adapting out, or use MAML.")
        self.n_context, self.layer = n_context, layer
        super().__init__(network, **settings)

    def set_network(self, network: Network) -> None:
        self._modulated = _modulated(network, self.layer)
        weights = dict(network.named_parameters())
        example = weights[self._modulated[0]]
        self.context = nn.Parameter(example.new_zeros(self.n_context), requires_grad=False)
        sizes = [weights[name].numel() for name in self._modulated]
        self.maps = nn.ModuleList(nn.Linear(self.n_context, size, bias=False) for size in sizes).to(example)
        super().set_network(network)

    def adapted_parameters(self) -> dict[str, nn.Parameter]:
        return {"context": self.context}

    def weights(self, state: State) -> State:
        own = dict(self.network.named_parameters())
        shifts: list[Tensor] = [layer(state["context"]) for layer in self.maps]
        pairs = zip(self._modulated, shifts, strict=True)
        return {name: own[name] + shift.view_as(own[name]) for name, shift in pairs}


def _modulated(network: Network, layer: str | None) -> list[str]:
    """Return the names of the parameters that the context shifts: those of one layer."""
    shapes = {name: p.shape for name, p in network.unshared_parameters().items()}
    owners = {name: name.rpartition(".") for name in shapes}
    biases = [name for name, (owner, _, own) in owners.items()
              if own.startswith("bias") or own.endswith("_bias")
              if layer in (None, owner)]  # fmt: skip
    scales = {name: f"{owners[name][0]}.weight" for name in biases}
    norms = [name for name in biases if shapes.get(scales[name]) == shapes[name]]
    if not biases:
        where = "the network" if layer is None else f"layer={layer!r}"
        names = ", ".join(dict.fromkeys(owner for owner, _, _ in owners.values()))
        raise MetaLensError(
            f"CAVIA needs a layer with a bias, which {where} is not or lacks after the stages that all tasks "
            f"share; the layers there are {names}."
        )
    return [scales[norms[0]], norms[0]] if norms else biases[:1]
