"""Model-agnostic meta-learning."""

from torch import nn

from metalens.learners.gradient import GradientLearner


class MAML(GradientLearner):
    """Learn an initialization from which a few gradient steps on all parameters solve a task.

    `f = theta - alpha * grad L(support; theta)`, once per meta-layer;
    outer loss `L(query; f)`, differentiated through the inner steps.

    With `first_order` it is first-order MAML: inner gradients are constants. Settings: see `GradientLearner`.

    >>> from metalens import MAML, Sinusoid, mlp
    >>> task = Sinusoid("test", k_shot=5)[0]
    >>> MAML(mlp(), inner_lr=0.01)(task.support)(task.query.x).shape
    torch.Size([15, 1])

    Source: C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
    Networks", 2017, arXiv 1703.03400.
    """

    def adapted_parameters(self) -> dict[str, nn.Parameter]:
        unshared = self.network.unshared_parameters()
        return {name: p for name, p in unshared.items() if name in self.trainable and self.is_selected(name)}
