"""Matching networks."""

import torch
import torch.nn.functional as F
from torch import Tensor

from metalens.errors import check_positive
from metalens.learners.base import Loss, NetworkLearner, State, task_loss
from metalens.learners.classification import class_indicators, number_of_classes, with_absent_classes
from metalens.networks import Network


class MatchingNet(NetworkLearner):
    """Classify by attention over the support examples.

    `p(k | x) = sum_i a_i(x) [y_i = k]`, `a(x) = softmax_i(scale * cos(g(x), g(x_i)))` over the support;
    logits `log p`. A class that the support lacks is improbable, see `with_absent_classes`.

    Args:
        network: only its backbone g is used and kept.
        n_way: classes of a task; by default the number of outputs of the network's head.
        scale: factor of the cosine; the larger, the closer to the nearest neighbor.
        loss: see `Learner`.

    Raises:
        MetaLensError: fewer than two classes, a scale out of range, or real targets.

    >>> import torch
    >>> from metalens import Examples, MatchingNet, mlp
    >>> support = Examples(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]))
    >>> MatchingNet(mlp(1, 2))(support)(support.x).argmax(1).tolist()
    [0, 1]

    Source: O. Vinyals, C. Blundell, T. Lillicrap, K. Kavukcuoglu, D. Wierstra, "Matching Networks for One
    Shot Learning", 2016, arXiv 1606.04080. Deviations: no full-context embeddings; one backbone for support
    and query; the scale, which is 1 in the paper; normalization layers use the statistics of the support
    and of the query set separately.
    """

    head_only = headless = True

    def __init__(
        self, network: Network, *, n_way: int | None = None, scale: float = 10.0, loss: Loss = task_loss
    ) -> None:
        super().__init__(network, loss=loss)
        self.n_way = number_of_classes("MatchingNet", network, n_way)
        check_positive(self, scale=scale)
        self.scale = scale

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        indicators = class_indicators("MatchingNet", y, z, self.n_way)
        return {"support": F.normalize(z, dim=1), "indicators": indicators}

    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        attention = (self.scale * F.normalize(z, dim=1) @ state["support"].T).log_softmax(1)  # (n, s)
        of_class = state["indicators"].T.bool()  # (n_way, s)
        lowest = torch.finfo(z.dtype).min  # finite, as are then the gradients of a class without examples
        logits = attention.unsqueeze(1).masked_fill(~of_class, lowest).logsumexp(2)
        return with_absent_classes(logits, state["indicators"].amax(0))
