"""The check that classes of tasks are numbered as a learner's outputs are."""

from collections.abc import Sequence

from metalens.errors import MetaLensError
from metalens.learners.base import Learner, NetworkLearner, task_loss
from metalens.tasks import Task


def n_labels(learner: NetworkLearner) -> int:
    """Return the number of outputs for classes, which are numbered below it.

    >>> from metalens import ProtoNet, mlp
    >>> n_labels(ProtoNet(mlp(4, 64), n_way=5))
    5
    """
    own = [getattr(learner, name, None) for name in ("n_way", "n_outputs")]
    n = learner.network.n_outputs
    return n if learner.needs_global_labels else next((size for size in own if isinstance(size, int)), n)


def check_labels(learner: Learner, tasks: Task, numbers: Sequence[int]) -> None:
    """Refuse class numbers that are no outputs of a learner, before PyTorch fails on them without their task.

    Learners without a network and losses of one's own are not checked, nor are labels on a GPU.

    Args:
        learner: of the tasks.
        tasks: a batch of T tasks.
        numbers: the number of each task, for the message.

    Raises:
        MetaLensError: a class is negative, or not below the number of outputs.

    >>> import torch
    >>> from metalens import MAML, Examples, mlp
    >>> examples = Examples(torch.zeros(1, 2, 4), torch.tensor([[1, 2]]))
    >>> check_labels(MAML(mlp(4, 2), inner_lr=0.1), Task(examples, examples), [7])
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: Classes must be numbered from 0 to 1 for 2 outputs, got 2 in task 7; ...
    """
    if not isinstance(learner, NetworkLearner) or getattr(learner, "loss", None) is not task_loss:
        return
    n = n_labels(learner)
    for examples in (tasks.support, tasks.query):
        y = examples.y
        if y.is_floating_point() or y.device.type != "cpu" or y.numel() == 0:
            continue
        if n < 2:
            raise MetaLensError(
                f"Classes need an output each, and {type(learner).__name__} has {n}; give the network as "
                "many as there are classes or, for regression, real targets (n, 1)."
            )
        wrong = (y < 0) | (y >= n)
        if wrong.any():
            place = tuple(wrong.nonzero()[0].tolist())
            raise MetaLensError(
                f"Classes must be numbered from 0 to {n - 1} for {n} outputs, got {int(y[place])} in task "
                f"{numbers[place[0]]}; number them so, or give the network more outputs."
            )
