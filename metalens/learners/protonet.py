"""Prototypical networks."""

from __future__ import annotations

import torch
from torch import Tensor

from metalens.errors import MetaLensError
from metalens.learners.base import Learner, Loss, State, task_loss
from metalens.networks import Network


class ProtoNet(Learner):
    """Classify by the nearest class mean in feature space.

    `c_k = mean of g(x) over the support of class k`; logits `-||g(x) - c_k||^2`.

    Args:
        network: only its backbone g is used and kept.
        n_way: classes of a task; by default the number of outputs of the network's head.
        loss: see `Learner`.

    Raises:
        MetaLensError: fewer than two classes, or real targets.

    >>> import torch
    >>> from metalens import Examples, ProtoNet, mlp
    >>> support = Examples(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]))
    >>> model = ProtoNet(mlp(1, 2))(support)
    >>> model(support.x).argmax(1).tolist()
    [0, 1]

    Source: J. Snell, K. Swersky, R. Zemel, "Prototypical Networks for Few-shot Learning", 2017,
    arXiv 1703.05175. Deviation: normalization layers use the statistics of the support and of the query
    set separately.
    """

    head_only = True

    def __init__(self, network: Network, *, n_way: int | None = None, loss: Loss = task_loss) -> None:
        super().__init__(network, loss=loss)
        self.n_way = network.n_outputs if n_way is None else n_way
        if self.n_way < 2:
            raise MetaLensError(
                f"ProtoNet needs at least 2 classes, got n_way={self.n_way}; it is a classifier, so give a "
                "network with one output per class, or n_way."
            )

    def set_network(self, network: Network) -> None:
        super().set_network(network.headless())

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        self.refuse_real_targets(y)
        return {"prototypes": class_means(z, y, self.n_way)}

    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        # -||z - c||^2 without the (n, n_way, d) array of differences.
        prototypes = state["prototypes"]
        squares = z.square().sum(1, keepdim=True) + prototypes.square().sum(1)
        return 2 * z @ prototypes.T - squares


def class_means(features: Tensor, y: Tensor, n_way: int) -> Tensor:
    """Return the mean features of every class, `(n_way, d)`; not a number for a class without examples.

    Args:
        features: `(s, d)`.
        y: class indices, `(s,)`.
        n_way: number of classes.

    >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]), 2).tolist()
    [[2.0], [5.0]]
    """
    members = (y.unsqueeze(0) == torch.arange(n_way, device=y.device).unsqueeze(1)).to(features.dtype)
    return members @ features / members.sum(1, keepdim=True)
