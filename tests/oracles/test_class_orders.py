"""Random orders of classes that read no value, against the formulas that count the classes first."""

import math
from collections import Counter

import pytest
import torch
from small_networks import build_network

from metalens import MAML, MLTI, Examples, MetaAug, MetaLensError, MetaMix, Objective, Task
from metalens.regularizers import mlti
from metalens.regularizers.classes import n_classes, random_orders

N_TASKS = 4


def batch(classes, k_support, k_query):
    """Tasks whose examples come in any order, with as many of each class."""

    def examples(k):
        labels = torch.tensor(classes).repeat(k)
        y = torch.stack([labels[torch.randperm(len(labels))] for _ in range(N_TASKS)])
        return Examples(torch.randn(*y.shape, 5, dtype=torch.float64), y)

    return Task(examples(k_support), examples(k_query))


@pytest.mark.parametrize("width", [3, 4, 9])
def test_every_order_is_equally_frequent_whatever_the_width(width):
    torch.manual_seed(0)
    orders = random_orders(6000, torch.tensor(3), width)
    assert (orders[:, 3:] == torch.arange(3, width)).all()
    counts = Counter(map(tuple, orders[:, :3].tolist()))
    assert len(counts) == 6
    chi_squared = sum((n - 1000) ** 2 / 1000 for n in counts.values())
    assert chi_squared < 20.5  # of 5 degrees of freedom: 1 in 1000
    pairs = Counter(tuple(orders[i, :3].tolist() + orders[i + 1, :3].tolist()) for i in range(0, 6000, 2))
    assert len(pairs) == 36  # tasks are independent


def test_slots_are_those_of_a_permutation_of_the_counted_classes():
    tasks, objective = batch([0, 1, 2], 2, 3), Objective(MAML(build_network("mlp")), [MetaAug()])
    torch.manual_seed(1)
    new = objective.transform_tasks(tasks)
    torch.manual_seed(1)
    slots = torch.rand(N_TASKS, int(n_classes(tasks))).argsort(1)
    for old_set, new_set in zip(tasks[:2], new[:2], strict=True):
        assert torch.equal(new_set.y, slots.gather(1, old_set.y))


@pytest.mark.parametrize("bound", [True, False])
def test_no_slot_is_used_that_no_task_of_the_batch_has(bound):
    tasks, regularizer = batch([0, 1], 2, 3), MetaAug()
    if bound:
        Objective(MAML(build_network("mlp")), [regularizer])  # of three classes
    labels = torch.cat([regularizer.transform_tasks(tasks).query.y for _ in range(40)])
    assert labels.unique().tolist() == [0, 1]
    assert 0.3 < (labels != tasks.query.y.repeat(40, 1)).double().mean() < 0.7


def test_channels_go_round_the_counted_classes():
    (support, query, _), regularizer = batch([0, 1, 2], 2, 3), MetaMix(channel_shuffle=0.5)
    Objective(MAML(build_network("mlp")), [regularizer])
    torch.manual_seed(2)
    new = regularizer._shuffle_channels(support, query)
    torch.manual_seed(2)
    cycle = torch.rand(N_TASKS, 3).argsort(1)
    giver = torch.empty_like(cycle).scatter(1, cycle, cycle.roll(1, 1))
    mask = torch.rand(N_TASKS, 5) < 0.5
    for old_set, new_set in zip((support, query), new, strict=True):
        fits = old_set.y.unsqueeze(1) == giver.gather(1, old_set.y).unsqueeze(2)
        n = old_set.y.shape[1]
        chosen = torch.where(fits, 1 + torch.rand(fits.shape), torch.eye(n)).argmax(2)
        taken = torch.stack([x[at] for x, at in zip(old_set.x, chosen, strict=True)])
        assert torch.equal(new_set.x, torch.where(mask.unsqueeze(1), taken, old_set.x))


def partners_by_counting(tasks, others, met_classes):
    """The classes of the batch are listed, and the examples of each gathered."""
    classes, partners = torch.cat([tasks.support.y, tasks.query.y], 1).unique(), []
    for x, y in tasks[:2]:
        order = (y + torch.rand(y.shape, dtype=torch.float64)).argsort(1)
        members = order.unflatten(1, (len(classes), -1))
        met = members[others.unsqueeze(1), met_classes]
        places = torch.empty_like(y).scatter(1, members.flatten(1), met.flatten(1))
        partners.append(Examples(x[others.unsqueeze(1), places], y))
    return partners


@pytest.mark.parametrize("classes", [[0, 1, 2], [1, 4, 7, 8], [3]])
@pytest.mark.parametrize(("k_support", "k_query"), [(1, 1), (2, 3), (4, 1)])
def test_partners_are_those_of_listed_classes(classes, k_support, k_query, monkeypatch):
    tasks, others = batch(classes, k_support, k_query), torch.tensor([2, 0, 3, 3])
    n = len(classes)
    met_classes = torch.stack([torch.randperm(n) for _ in range(N_TASKS)])

    def given(n_tasks, size, width):
        assert (n_tasks, int(size)) == (N_TASKS, n)
        return torch.cat([met_classes, torch.arange(n, width).expand(n_tasks, -1)], 1)

    monkeypatch.setattr(mlti, "random_orders", given)
    torch.manual_seed(3)
    found = MLTI()._partners_by_class(tasks, others, torch.tensor(n))
    torch.manual_seed(3)
    for own, expected in zip(found, partners_by_counting(tasks, others, met_classes), strict=True):
        assert torch.equal(own.x, expected.x)
        assert torch.equal(own.y, expected.y)


def test_orders_of_classes_that_mlti_meets_are_drawn_as_before():
    tasks, others = batch([0, 1, 2], 1, 1), torch.tensor([2, 0, 3, 3])
    torch.manual_seed(4)
    found = MLTI()._partners_by_class(tasks, others, torch.tensor(3))
    torch.manual_seed(4)
    met_classes = torch.rand(N_TASKS, 3).argsort(1)
    for own, expected in zip(found, partners_by_counting(tasks, others, met_classes), strict=True):
        assert torch.equal(own.x, expected.x)


def unequal():
    tasks = batch([0, 1], 2, 2)
    tasks.support.y[1] = torch.tensor([0, 1, 1, 1])
    return tasks


def test_batches_are_refused_before_they_go_to_a_device():
    objective = Objective(MAML(build_network("mlp")), [MLTI()])
    with pytest.raises(MetaLensError, match="MLTI pairs the classes of tasks"):
        objective.check_tasks(unequal(), range(N_TASKS))
    tasks = batch([0, 7], 2, 2)
    with pytest.raises(MetaLensError, match=r"Classes must be numbered from 0 to 2 .* got 7 in task 5"):
        objective.check_tasks(tasks, range(5, 9))
    objective.check_tasks(batch([0, 1], 2, 2), range(N_TASKS))


def test_what_no_one_could_refuse_is_no_number(monkeypatch):
    monkeypatch.setattr(MLTI, "check_tasks", lambda self, tasks: None)  # as of tasks that a GPU has drawn
    for wrong in (unequal(), batch([0, 1], 2, 2)._replace(query=batch([0, 2], 2, 2).query)):
        new = MLTI().transform_tasks(wrong)
        assert new.support.x.isnan().all()
        assert new.query.x.isnan().all()
    assert math.isfinite(MLTI().transform_tasks(batch([0, 1], 2, 2)).support.x.sum())
