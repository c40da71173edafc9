"""Prototypical networks."""

from torch import Tensor

from metalens.learners.base import Loss, NetworkLearner, State, task_loss
from metalens.learners.classification import (
    class_indicators,
    class_means,
    number_of_classes,
    with_absent_classes,
)
from metalens.networks import Network


class ProtoNet(NetworkLearner):
    """Classify by the nearest class mean in feature space.

    `c_k = mean of g(x) over the support of class k`; logits `-||g(x) - c_k||^2`. A class that the support
    lacks is improbable, see `with_absent_classes`.

    Args:
        network: only its backbone g is used and kept.
        n_way: classes of a task; by default the number of outputs of the network's head.
        loss: see `Learner`.

    Raises:
        MetaLensError: fewer than two classes, or real targets.

    >>> import torch
    >>> from metalens import Examples, ProtoNet, mlp
    >>> support = Examples(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]))
    >>> ProtoNet(mlp(1, 2))(support)(support.x).argmax(1).tolist()
    [0, 1]

    Source: J. Snell, K. Swersky, R. Zemel, "Prototypical Networks for Few-shot Learning", 2017,
    arXiv 1703.05175. Deviation: normalization layers use the statistics of the support and of the query
    set separately.
    """

    head_only = headless = True

    def __init__(self, network: Network, *, n_way: int | None = None, loss: Loss = task_loss) -> None:
        super().__init__(network, loss=loss)
        self.n_way = number_of_classes("ProtoNet", network, n_way)

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        indicators = class_indicators("ProtoNet", y, z, self.n_way)
        return {"prototypes": class_means(z, indicators), "present": indicators.amax(0)}

    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        # -||z - c||^2 without the (n, n_way, d) array of differences.
        prototypes = state["prototypes"]
        squares = z.square().sum(1, keepdim=True) + prototypes.square().sum(1)
        return with_absent_classes(2 * z @ prototypes.T - squares, state["present"])
