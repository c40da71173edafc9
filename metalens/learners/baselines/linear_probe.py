"""The plain baseline of transfer learning: pretrain on all tasks together, then fit a linear head."""

import torch.nn.functional as F
from torch import Tensor, nn

from metalens.errors import MetaLensError
from metalens.learners.base import Loss, NetworkLearner, State, task_loss
from metalens.learners.gradient import GradientLearner
from metalens.networks import Network


class LinearProbe(GradientLearner):
    """Pretrain the network on all training tasks as one problem; at test time fit a new linear head.

    In training nothing adapts: the loss is that of one head w on the features g of the query examples,
    `L(query; w(g(x)))`. At test time w starts at 0 and is fitted, by Adam, to
    `L(support; w(g(x))) + (weight_decay / 2) ||w||^2`.

    In classification, classes must mean the same in all training tasks: train on
    `distribution.with_global_labels()`, whose targets are numbers of classes of the whole training set.

    Args:
        network: the backbone g; its head gives the number of outputs at test time.
        n_classes: classes of the whole training set; `None` if the outputs are those at test time, as in
            regression.
        weight_decay: strength of the penalty on the weights of the fitted head.
        inner_lr: step size of Adam at test time.
        inner_steps: its steps.
        loss: see `Learner`.

    Raises:
        MetaLensError: a setting is out of range.

    >>> from metalens import LinearProbe, Sinusoid, mlp
    >>> LinearProbe(mlp())(Sinusoid("test")[0].support).state["head.weight"].shape
    torch.Size([1, 40])

    Source: W.-Y. Chen and others, "A Closer Look at Few-shot Classification", 2019, arXiv 1904.04232 (its
    "Baseline"). Deviations: Adam at test time; it trains on the query examples only, in batches of tasks, so
    that normalization layers see one task at a time.
    """

    head_only = True
    needs_global_labels = True
    regularizer_refusal = "in training it adapts to no task, it learns one model for all of them."

    def __init__(
        self,
        network: Network,
        *,
        n_classes: int | None = None,
        weight_decay: float = 0.001,
        inner_lr: float = 0.05,
        inner_steps: int = 100,
        loss: Loss = task_loss,
    ) -> None:
        if n_classes is not None and n_classes < 2:
            raise MetaLensError(f"LinearProbe: n_classes must be at least 2, or None, got {n_classes}.")
        if weight_decay < 0:
            raise MetaLensError(f"LinearProbe: weight_decay must be 0 or more, got {weight_decay}.")
        self.n_outputs = network.n_outputs
        self.weight_decay = weight_decay
        super().__init__(
            network,
            inner_lr=inner_lr,
            inner_steps=inner_steps,
            first_order=True,
            inner_optimizer="adam",
            inner_momentum=0.9,
            loss=loss,
        )
        self.inner_steps = 0  # in training nothing adapts
        if n_classes is not None:
            example = next(network.parameters())
            head = nn.Linear(network.n_features, n_classes, device=example.device, dtype=example.dtype)
            self.set_network(network.with_head(head, n_classes))

    def set_network(self, network: Network) -> None:
        NetworkLearner.set_network(self, network)  # what adapts is no part of the network

    def adapted_parameters(self) -> dict[str, nn.Parameter]:
        return {}

    def initial_state(self, z: Tensor, y: Tensor) -> State:
        c, d = self.n_outputs, z.shape[1]
        return {"head.weight": z.new_zeros(c, d), "head.bias": z.new_zeros(c)}

    def support_loss(self, state: State, z: Tensor, y: Tensor) -> Tensor:
        penalty = state["head.weight"].square().sum()
        return super().support_loss(state, z, y) + self.weight_decay / 2 * penalty

    def run(self, state: State, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        if self.training or stop is not None:
            return self.network(x, start, stop)
        features = self.network(x, start, self.network.depth)
        return F.linear(features, state["head.weight"], state["head.bias"])
