"""One model for all tasks, which ignores the task."""

from torch import Tensor

from metalens.learners.base import NetworkLearner, State


class JointModel(NetworkLearner):
    """One network trained on all tasks together, and applied to new tasks without their support.

    `L(query; f(x))`. A method that does not beat it gains nothing from the support of a new task. In
    classification, classes must mean the same in all tasks.

    Settings: `loss`, see `Learner`.

    >>> from metalens import JointModel, Sinusoid, mlp
    >>> one, other = (JointModel(mlp().requires_grad_(False))(Sinusoid()[i].support) for i in range(2))
    >>> one.state == other.state == {}
    True

    Deviation: it trains on the query examples only, in batches of tasks.
    """

    head_only = True
    min_support = 0
    regularizer_refusal = "it adapts to no task, it learns one model for all of them."

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        return {}

    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        return self.network(z, start=self.network.depth)
