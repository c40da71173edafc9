"""Almost no inner loop."""

from typing import Unpack

from torch import Tensor, nn

from metalens.learners.base import State
from metalens.learners.gradient import GradientLearner, InnerSettings
from metalens.networks import Network
from metalens.networks.norm import TransductiveBatchNorm


class ANIL(GradientLearner):
    """MAML whose inner loop adapts the head alone; the backbone is shared by all tasks.

    `w_{t+1} = w_t - alpha * grad_w L(w_t(g(support)))`, with features `g` fixed in the inner loop.

    With `transductive` the head reads `a * (g(x) - m) / sqrt(v + eps) + b`, where m and v are mean and
    variance of the features of the set at hand: of the support, and then of the queries of one call. A
    prediction then depends on the other queries: the model says so in a warning, it cannot predict for a
    single row, and the same row has another prediction in other company. Use it to score whole query sets,
    not where rows come one by one.

    Args:
        network: see `GradientLearner`.
        transductive: whether features are normalized by the set at hand, with learned a and b.
        **settings: see `GradientLearner`.

    >>> from metalens import ANIL, Sinusoid, mlp
    >>> sorted(ANIL(mlp(), inner_lr=0.1, inner_steps=5).adapt(Sinusoid("test")[0].support))
    ['head.bias', 'head.weight']

    Source: A. Raghu, M. Raghu, S. Bengio, O. Vinyals, "Rapid Learning or Feature Reuse? Towards
    Understanding the Effectiveness of MAML", 2020, arXiv 1909.09157. Deviation: their networks normalize by
    the set at hand in every layer, as those of MAML do, which is a matter of the network here, such as
    `conv4`; `transductive` does it once, for a network without.
    """

    head_only = True

    def __init__(
        self, network: Network, *, transductive: bool = False, **settings: Unpack[InnerSettings]
    ) -> None:
        self.transductive = transductive
        super().__init__(network, **settings)

    def set_network(self, network: Network) -> None:
        super().set_network(network)
        if self.transductive:
            self.norm = TransductiveBatchNorm(network.n_features).to(next(network.parameters()))

    def adapted_parameters(self) -> dict[str, nn.Parameter]:
        head = self.network.head.named_parameters(prefix="head")
        return {name: p for name, p in head if name in self.trainable and self.is_selected(name)}

    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        return super().predict_encoded(state, self.norm(z) if self.transductive else z)

    def predict_hidden(self, state: State, hidden: Tensor, layer: int) -> Tensor:
        return self.predict_encoded(state, self.network(hidden, start=layer, stop=self.network.depth))
