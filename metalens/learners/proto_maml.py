"""MAML that starts from the prototypes of the classes."""

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor

from metalens.learners.base import State
from metalens.learners.classification import class_indicators, class_means, number_of_classes
from metalens.learners.gradient import InnerSettings
from metalens.learners.maml import MAML
from metalens.networks import Network


class ProtoMAML(MAML):
    """MAML whose head is initialized, for each task, as the classifier of a prototypical network.

    `W_k = 2 c_k`, `b_k = -||c_k||^2`, with `c_k` the mean of g(x) over the support of class k: at first the
    logits are those of `ProtoNet` up to a constant of each example. Backbone and head then adapt by gradient
    steps, and the outer gradient also flows through the prototypes. A class that the support lacks begins
    with `W_k = 0` and `b_k = 0`, and the steps make it less probable.

    Args:
        network: only its backbone is used and kept.
        n_way: classes of a task; by default the number of outputs of the network's head.
        **settings: see `GradientLearner`.

    Raises:
        MetaLensError: fewer than two classes, or real targets.

    >>> from metalens import ProtoMAML, mlp
    >>> import torch
    >>> state = ProtoMAML(mlp(1, 2, [8])).adapt_encoded(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]))
    >>> state["head.weight"].shape
    torch.Size([2, 8])

    Source: E. Triantafillou and others, "Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few
    Examples", 2020, arXiv 1903.03096.
    """

    headless = True

    def __init__(
        self, network: Network, *, n_way: int | None = None, **settings: Unpack[InnerSettings]
    ) -> None:
        super().__init__(network, **settings)
        self.n_way = number_of_classes("ProtoMAML", network, n_way)

    def initial_state(self, z: Tensor, y: Tensor) -> State:
        features = self.embed(z)
        prototypes = class_means(features, class_indicators("ProtoMAML", y, features, self.n_way))
        head = {"head.weight": 2 * prototypes, "head.bias": -prototypes.square().sum(1)}
        return {**super().initial_state(z, y), **head}

    def run(self, state: State, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        backbone = {name: state[name] for name in self.adapted_parameters()}
        if stop is not None:
            return super().run(backbone, x, start, stop)
        features = super().run(backbone, x, start, self.network.depth)
        return F.linear(features, state["head.weight"], state["head.bias"])
