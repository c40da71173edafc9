"""MetaAug by what its formula implies for every task."""

import pytest
import torch
from small_networks import N_TASKS, N_WAY, build_network, classification_tasks, regression_tasks

from metalens import MAML, Examples, MetaAug, MetaLensError, Objective, ProtoNet, Task


def test_each_regression_task_has_one_shift_for_support_and_query():
    torch.manual_seed(0)
    tasks = regression_tasks("mlp")
    before = tasks.support.y.clone()
    seen = []
    for _ in range(100):
        new = MetaAug(shift=0.5).transform_tasks(tasks)
        for i in range(N_TASKS):
            shift = (new.support.y[i, 0] - tasks.support.y[i, 0]).numpy()
            for old_set, new_set in zip(tasks[:2], new[:2], strict=True):
                assert torch.equal(new_set.x, old_set.x)
                assert new_set.y.dtype == torch.float64
                for j in range(old_set.y.shape[1]):
                    torch.testing.assert_close(new_set.y[i, j], old_set.y[i, j] + torch.from_numpy(shift))
            seen.append(torch.from_numpy(shift))
    shifts = torch.stack(seen)  # uniform on [-0.5, 0.5], independent between tasks and target dimensions
    assert shifts.shape == (100 * N_TASKS, N_WAY)
    assert -0.5 <= shifts.min() < -0.49
    assert 0.49 < shifts.max() <= 0.5
    assert shifts.mean().abs() < 0.03
    torch.testing.assert_close(shifts.std().item(), 1 / 12**0.5, rtol=0.05, atol=0)
    assert shifts.T.corrcoef().fill_diagonal_(0).abs().max() < 0.2
    assert shifts.view(100, N_TASKS, N_WAY)[..., 0].T.corrcoef().fill_diagonal_(0).abs().max() < 0.35
    assert torch.equal(tasks.support.y, before)


def test_targets_with_a_period_wrap_around():
    torch.manual_seed(0)
    tasks = regression_tasks("mlp").map(lambda examples: Examples(examples.x, examples.y.remainder(2.0)))
    turned = torch.cat([MetaAug(shift=1.0, period=2.0).transform_tasks(tasks).query.y for _ in range(100)])
    assert 0 <= turned.min() < 0.05
    assert 1.95 < turned.max() < 2
    torch.manual_seed(1)
    new = MetaAug(shift=1.0, period=2.0).transform_tasks(tasks)
    torch.manual_seed(1)
    straight = MetaAug(shift=1.0).transform_tasks(tasks)
    for wrapped, plain in zip(new[:2], straight[:2], strict=True):
        whole_turns = (plain.y - wrapped.y) / 2
        torch.testing.assert_close(whole_turns, whole_turns.round())


def test_default_and_zero_shift():
    tasks = regression_tasks("mlp")
    shifts = torch.cat([MetaAug().transform_tasks(tasks).query.y - tasks.query.y for _ in range(50)])
    assert 0.9 < shifts.abs().max() <= 1.0
    assert torch.equal(MetaAug(shift=0.0).transform_tasks(tasks).query.y, tasks.query.y)
    halves = Task(*(Examples(x, y.bfloat16()) for x, y in tasks[:2]))
    assert MetaAug().transform_tasks(halves).query.y.dtype == torch.bfloat16


def test_each_classification_task_has_one_permutation_for_support_and_query():
    torch.manual_seed(0)
    tasks = classification_tasks("mlp")
    seen = [set() for _ in range(N_TASKS)]
    together = set()
    for _ in range(60):
        new = MetaAug().transform_tasks(tasks)
        maps = []
        for i in range(N_TASKS):
            slots = {}
            for old_set, new_set in zip(tasks[:2], new[:2], strict=True):
                assert torch.equal(new_set.x, old_set.x)
                assert new_set.y.dtype == torch.int64
                for old, label in zip(old_set.y[i].tolist(), new_set.y[i].tolist(), strict=True):
                    assert slots.setdefault(old, label) == label
            assert sorted(slots.values()) == list(range(N_WAY))
            maps.append(tuple(slots[k] for k in range(N_WAY)))
            seen[i].add(maps[-1])
        together.add(len(set(maps)))
    assert all(len(maps) == 6 for maps in seen)  # every permutation of 3 slots
    assert max(together) > 1  # tasks differ


def test_a_class_of_one_set_alone_is_permuted_too():
    x = torch.zeros(2, 2, 1)
    small, large = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, 2], [2, 1]])
    for y in ((small, large), (large, small)):
        labels = {
            tuple(torch.cat([e.y for e in new[:2]], 1)[0].tolist())
            for new in (
                MetaAug().transform_tasks(Task(Examples(x, y[0]), Examples(x, y[1]))) for _ in range(60)
            )
        }
        assert len(labels) == 6
        assert max(max(row) for row in labels) == 2


def test_a_learner_without_slots_of_its_own_does_not_mind_the_permutation():
    tasks, learner = classification_tasks("mlp"), ProtoNet(build_network("mlp"))
    torch.testing.assert_close(
        Objective(learner, [MetaAug()])(tasks)["query"], Objective(learner)(tasks)["query"]
    )


def test_the_objective_adapts_to_shifted_tasks():
    tasks, learner = regression_tasks("mlp"), MAML(build_network("mlp"))
    torch.manual_seed(0)
    loss = Objective(learner, [MetaAug(shift=3.0)])(tasks)["query"]
    torch.manual_seed(0)
    torch.testing.assert_close(loss, Objective(learner)(MetaAug(shift=3.0).transform_tasks(tasks))["query"])


def test_settings_out_of_range_are_refused():
    for shift in (-0.1, float("inf"), float("nan")):
        words = f"^MetaAug: shift must be 0 or more and finite, got {shift}.$"
        with pytest.raises(MetaLensError, match=words):
            MetaAug(shift=shift)
    for period in (0.0, -1.0, float("inf"), float("nan")):
        words = f"^MetaAug: period must be above 0 and finite, got {period}.$"
        with pytest.raises(MetaLensError, match=words):
            MetaAug(period=period)
