"""Classes that are not numbered as the outputs of a learner are refused with their task."""

import pytest
import torch

from metalens import (
    MAML,
    R2D2,
    Examples,
    MatchingNet,
    MetaLensError,
    Objective,
    ProtoNet,
    Task,
    TaskDistribution,
    evaluate,
    fit,
    mlp,
)


class Shifted(TaskDistribution):
    """Tasks of three classes, numbered from `first`; from task `start` on."""

    def __init__(self, split="train", *, first=1, start=0):
        super().__init__(split)
        self.first, self.start = first, start

    def __getitem__(self, index):
        x = torch.randn(12, 3, generator=torch.Generator().manual_seed(index))
        y = torch.arange(12) % 3 + (self.first if index >= self.start else 0)
        return Task(Examples(x[:6], y[:6]), Examples(x[6:], y[6:]))


LEARNERS = {
    "MAML": lambda: MAML(mlp(3, 3, [8]), inner_lr=0.1),
    "ProtoNet": lambda: ProtoNet(mlp(3, 3, [8])),
    "R2D2": lambda: R2D2(mlp(3, 3, [8])),
    "MatchingNet": lambda: MatchingNet(mlp(3, 3, [8])),
    "MAML, fewer outputs": lambda: MAML(mlp(3, 2, [8]), inner_lr=0.1),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_classes_numbered_from_one_are_refused_with_their_task(name):
    n = 2 if "fewer" in name else 3
    words = rf"Classes must be numbered from 0 to {n - 1} for {n} outputs, got {n} in task 0; number them so"
    with pytest.raises(MetaLensError, match=words):
        fit(Objective(LEARNERS[name]()), Shifted(), steps=2, meta_batch_size=4, seed=0)
    with pytest.raises(MetaLensError, match=words):
        evaluate(LEARNERS[name](), Shifted("test"), n_tasks=3)


def test_the_task_is_named_wherever_it_is():
    learner = LEARNERS["MAML"]()
    with pytest.raises(MetaLensError, match="got -1 in task 0"):
        evaluate(learner, Shifted("test", first=-1), n_tasks=2)
    with pytest.raises(MetaLensError, match="got 3 in task 5"):
        fit(Objective(learner), Shifted(start=5), steps=4, meta_batch_size=2, seed=0)
    assert len(evaluate(learner, Shifted("test", first=0), n_tasks=2)) == 4


def test_a_loss_of_ones_own_may_number_otherwise():
    learner = MAML(mlp(3, 2, [8]), inner_lr=0.1, loss=lambda p, y: (p.sum(-1) - y).square().mean())
    fit(Objective(learner), Shifted(), steps=1, meta_batch_size=2, seed=0)
