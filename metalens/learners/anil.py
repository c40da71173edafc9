"""Almost no inner loop."""

from __future__ import annotations

from torch import Tensor, nn

from metalens.learners.base import State
from metalens.learners.gradient import GradientLearner, call


class ANIL(GradientLearner):
    """MAML whose inner loop adapts the head alone; the backbone is shared by all tasks.

    `w_{t+1} = w_t - alpha * grad_w L(w_t(g(support)))`, with features `g` fixed in the inner loop.

    Args:
        network: the backbone g and the head w.
        inner_lr: alpha, the step size of the inner loop.
        inner_steps: number of gradient steps (meta-layers) in training.
        test_inner_steps: the same at test time; by default as in training.
        first_order: inner gradients are constants.
        loss: see `Learner`.

    >>> import torch
    >>> from metalens import ANIL, Sinusoid, mlp
    >>> learner = ANIL(mlp(), inner_lr=0.1, inner_steps=5)
    >>> sorted(learner.adapt(Sinusoid("test")[0].support))
    ['bias', 'weight']

    Source: A. Raghu, M. Raghu, S. Bengio, O. Vinyals, "Rapid Learning or Feature Reuse? Towards
    Understanding the Effectiveness of MAML", 2020, arXiv 1909.09157.
    """

    head_only = True

    def adapted_parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.network.head.named_parameters() if p.requires_grad}

    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        return call(self.network.head, state, z)
