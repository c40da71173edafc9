"""Almost no inner loop."""

from torch import nn

from metalens.learners.gradient import GradientLearner


class ANIL(GradientLearner):
    """MAML whose inner loop adapts the head alone; the backbone is shared by all tasks.

    `w_{t+1} = w_t - alpha * grad_w L(w_t(g(support)))`, with features `g` fixed in the inner loop.

    Settings: see `GradientLearner`.

    >>> from metalens import ANIL, Sinusoid, mlp
    >>> sorted(ANIL(mlp(), inner_lr=0.1, inner_steps=5).adapt(Sinusoid("test")[0].support))
    ['head.bias', 'head.weight']

    Source: A. Raghu, M. Raghu, S. Bengio, O. Vinyals, "Rapid Learning or Feature Reuse? Towards
    Understanding the Effectiveness of MAML", 2020, arXiv 1909.09157.
    """

    head_only = True

    def adapted_parameters(self) -> dict[str, nn.Parameter]:
        head = self.network.head.named_parameters(prefix="head")
        return {name: p for name, p in head if name in self.trainable and self.is_selected(name)}
