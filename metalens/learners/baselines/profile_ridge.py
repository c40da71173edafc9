"""Predictions of the training tasks' models as features."""

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from metalens.data import TaskDistribution
from metalens.data.checks import check_sizes
from metalens.learners.baselines.base import Baseline
from metalens.learners.baselines.fitted import resize_when_loaded
from metalens.learners.baselines.ridge import STRENGTHS
from metalens.tasks import Examples


class ProfileRidge(Baseline):
    """The classical way to use related tasks: the predictions of the training tasks' models are the inputs.

    Each of m training tasks gets a ridge regression `p_j(x) = A_j x + a_j` on all its examples. A new task is
    then a ridge regression on its profile, `f(x) = B [p_1(x), ..., p_m(x)] + b`. The strengths of both have
    the least squared error when each example in turn is left out, see `Ridge`. For classes, targets are
    columns of ones and zeros. Without training tasks it is the mean of the support.

    The models of the training tasks are fitted when training begins, to tasks 0 ... `n_tasks - 1`; the
    examples of tasks of one name are put together, so that a table is seen nearly whole.

    Args:
        n_outputs: number of targets, or of classes of a task.
        n_tasks: number of training tasks to draw.

    Raises:
        MetaLensError: a setting is below 1.

    >>> from metalens import Objective, ProfileRidge, Sinusoid, fit
    >>> profile = ProfileRidge(n_outputs=1, n_tasks=20)
    >>> _ = fit(Objective(profile), Sinusoid(), steps=1, meta_batch_size=1)
    >>> profile.slopes.shape
    torch.Size([20, 1])

    Source: E. Martin and others, "Profile-QSAR: A Novel Meta-QSAR Method that Combines Activities across
    the Kinase Family To Accurately Predict Affinity, Selectivity, and Cellular Activity", J. Chem. Inf.
    Model. 51, 2011. Deviations: ridge regression in place of random forests and of partial least squares.
    """

    slopes: Tensor
    intercepts: Tensor

    def __init__(self, n_outputs: int, *, n_tasks: int = 400) -> None:
        super().__init__(n_outputs)
        check_sizes(n_tasks=n_tasks)
        self.n_tasks = n_tasks
        self.register_buffer("slopes", torch.zeros(0, 0))
        self.register_buffer("intercepts", torch.zeros(0))
        resize_when_loaded(self)

    def prepare(self, tasks: TaskDistribution) -> None:
        from sklearn.linear_model import RidgeCV

        examples: dict[str, list[Examples]] = defaultdict(list)
        for number in range(self.n_tasks):
            task = tasks[number]
            examples[tasks.task_name(number)] += [task.support, task.query]
        models = []
        for of_task in examples.values():
            x, y = (torch.cat(parts).numpy() for parts in zip(*of_task, strict=True))
            targets = y if y.dtype.kind == "f" else np.eye(self.n_outputs)[y]
            models.append(RidgeCV(alphas=STRENGTHS).fit(x.reshape(len(x), -1), targets))
        slopes = np.ascontiguousarray(np.concatenate([np.atleast_2d(m.coef_) for m in models]))
        self.slopes = self.slopes.new_tensor(slopes)
        self.intercepts = self.intercepts.new_tensor(np.concatenate([np.ravel(m.intercept_) for m in models]))

    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        from sklearn.linear_model import RidgeCV

        targets = np.eye(self.n_outputs)[y] if classes else y
        if len(x) == 1 or len(self.slopes) == 0:
            return np.repeat(targets.mean(0, keepdims=True), len(new_x), axis=0)
        slopes, intercepts = (part.cpu().numpy() for part in (self.slopes, self.intercepts))
        profile, new_profile = (rows @ slopes.T + intercepts for rows in (x, new_x))
        model = RidgeCV(alphas=STRENGTHS).fit(profile, targets)
        return model.predict(new_profile).reshape(len(new_x), -1)
