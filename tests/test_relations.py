"""What is known about tasks, and what training tells about their relations."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from torch.utils import _pytree as pytree
from torch.utils.data import default_collate

from metalens import (
    MAML,
    MLTI,
    AdaptedTasks,
    ClusteredSinusoid,
    Examples,
    GeneratedTasks,
    Harmonic,
    MetaAug,
    MetaLensError,
    Objective,
    Sinusoid,
    Task,
    TRLearner,
    Validation,
    fit,
    fit_together,
    mlp,
    stack_tasks,
)
from metalens.relations import Cosine, Known, Shuffled, Uniform
from metalens.relations.agreement import rank_correlation

# Traits


def pair() -> Task:
    return Task(Examples(torch.zeros(5, 1), torch.zeros(5, 1)), Examples(torch.ones(3, 1), torch.ones(3, 1)))


def test_a_task_without_descriptors_has_five_tensors_to_everything_that_walks_trees():
    task = pair()
    support, query, descriptors = task
    assert (support, query) == task[:2]
    assert len(task) == len(list(task)) == 3
    assert len(pytree.tree_leaves(task)) == len(task.tensors) == 5
    assert torch.vmap(lambda task: task)(stack_tasks([task] * 2)).descriptors.shape == (2, 0)
    for other in (default_collate([task, task]), stack_tasks([task, task])):
        assert isinstance(other, Task)
        assert other.descriptors.shape == (2, 0)
    assert pickle.loads(pickle.dumps(task)).descriptors.shape == descriptors.shape == (0,)
    assert Task(*stack_tasks([task] * 2)[:2]).as_batch().descriptors.shape == (2, 0)
    tasks = Sinusoid().batch(range(2))
    assert tasks.as_batch() is tasks


@pytest.mark.parametrize("given", [(), (np.zeros((6, 0)),)])
def test_drawn_tasks_without_descriptors_can_be_taken_one_by_one(given):
    tasks = GeneratedTasks(lambda rng, n: Task(*Sinusoid().draw(rng, n)[:2], *given), block_size=6)
    assert tasks[3].descriptors.shape == (0,)
    assert tasks.batch([5, 7]).descriptors.shape == (2, 0)
    assert MLTI().transform_tasks(Task(*tasks.batch([5, 7])[:2])).descriptors.shape == (2, 0)


def test_traits_are_a_part_of_the_tree():
    task = Task(*pair()[:2], torch.tensor([1.0, 2.0]))
    assert len(pytree.tree_leaves(task)) == len(task.tensors) == 5
    assert torch.vmap(lambda task: task)(stack_tasks([task] * 2)).descriptors.tolist() == [[1, 2], [1, 2]]
    for other in (default_collate([task] * 2), stack_tasks([task] * 2), Task.of_tensors(task.tensors)):
        assert other.descriptors[..., 1].unique().tolist() == [2]
    assert task.map(lambda examples: Examples(examples.x, -examples.y)).descriptors is task.descriptors
    with pytest.raises(MetaLensError, match=r"descriptors comes in \[\(0,\), \(2,\)\]"):
        stack_tasks([pair(), task])
    with pytest.raises(MetaLensError, match="descriptors comes in"):
        stack_tasks([task, Task(*pair()[:2], torch.zeros(3))])


@pytest.mark.parametrize("family", [Sinusoid, Harmonic, ClusteredSinusoid])
def test_traits_belong_to_their_task(family):
    tasks = family(seed=3)
    batch = tasks.batch([5, 700, 2])
    for place, number in enumerate([5, 700, 2]):
        assert torch.equal(batch.descriptors[place], tasks[number].descriptors)
    assert len(batch.descriptors.unique(dim=0)) > 1


def test_traits_of_sinusoids_are_the_function():
    x, y = (tasks := Sinusoid("test").batch(range(50))).query
    first, second = tasks.descriptors[:, :1, None], tasks.descriptors[:, 1:, None]
    torch.testing.assert_close(first * x.sin() - second * x.cos(), y, rtol=1e-4, atol=1e-4)


def test_traits_of_harmonics_are_the_function():
    tasks = Harmonic("test", n_query=2000).batch(range(20))
    x, y = (tensor.double() for tensor in tasks.query)
    c1, s1, c2, s2, w, center = tasks.descriptors.double()[..., None, None].unbind(1)
    waves = c1 * (w * x).sin() + s1 * (w * x).cos() + c2 * (2 * w * x).sin() + s2 * (2 * w * x).cos()
    torch.testing.assert_close(waves, y, rtol=1e-3, atol=1e-3)
    assert (x.mean(1) - center[..., 0]).abs().max() < 0.1


def test_planted_groups_are_where_they_were_planted():
    tasks = {
        split: ClusteredSinusoid(split, n_groups=3, spread=0.2, amplitude=2.0, seed=7).batch(range(600))
        for split in ("train", "test")
    }
    middles = {}
    for split, batch in tasks.items():
        x, y = (tensor.squeeze(-1).double().numpy() for tensor in batch.query)
        waves = np.stack([np.sin(x), np.cos(x)], axis=-1)
        found = np.stack([np.linalg.lstsq(a, b, rcond=None)[0] for a, b in zip(waves, y, strict=True)])
        groups = batch.descriptors.argmax(1).numpy()
        assert (batch.descriptors.sum(1) == 1).all()
        assert np.bincount(groups).min() > 150
        middles[split] = np.stack([found[groups == g].mean(0) for g in range(3)])
        spreads = [found[groups == g].std(0) for g in range(3)]
        np.testing.assert_allclose(spreads, 0.2, rtol=0.2)
        apart = np.linalg.norm(middles[split] - np.roll(middles[split], 1, axis=0), axis=1)
        np.testing.assert_allclose(apart, 2 * 2.0 * np.sin(np.pi / 3), atol=0.1)
    np.testing.assert_allclose(middles["train"], middles["test"], atol=0.1)
    with pytest.raises(MetaLensError, match="n_groups must be at least 2"):
        ClusteredSinusoid(n_groups=1)
    with pytest.raises(MetaLensError, match="spread must be 0 or more"):
        ClusteredSinusoid(spread=-1.0)


def test_changes_of_tasks_keep_their_traits_or_change_them_alike():
    tasks = Sinusoid().batch(range(4))
    torch.manual_seed(0)
    assert MetaAug().transform_tasks(tasks).descriptors is tasks.descriptors
    mixed = MLTI().transform_tasks(tasks)
    changed = (tasks.query.x - mixed.query.x).flatten(1).norm(dim=1) > 1e-4
    assert changed.any()
    assert torch.equal((tasks.descriptors - mixed.descriptors).norm(dim=1) > 1e-4, changed)


def test_traits_do_not_disturb_training():
    """Plain, compiled and side by side, a run is the same with descriptors and without."""

    class Bare(Sinusoid):
        def batch(self, indices):
            return Task(*super().batch(indices)[:2])

    weights = []
    for family in (Sinusoid, Bare):
        torch.manual_seed(0)
        objectives = [Objective(MAML(mlp(hidden=[8]))) for _ in range(3)]
        fit(objectives[0], family(), steps=2, meta_batch_size=3)
        fit_together(objectives[1:], [family(seed=1), family(seed=2)], steps=2, meta_batch_size=3)
        weights.append([p for objective in objectives for p in objective.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


# Diagnostics


def related(seed: int = 0, relation=None) -> Objective:
    torch.manual_seed(seed)
    return Objective(MAML(mlp(hidden=[8])), [TRLearner(relation, weight=0.5)]).double()


class Doubled(Sinusoid):
    """Sinusoids in double precision."""

    def draw(self, rng, n):
        return pytree.tree_map(torch.Tensor.double, super().draw(rng, n))


def test_diagnostics_are_what_the_matrix_is():
    objective, tasks = related(relation=Cosine(vector="adaptation")), Doubled().batch(range(6))
    found = objective.diagnostics(tasks)
    with torch.no_grad():
        matrix = objective.relation(AdaptedTasks(objective.learner, tasks)).numpy()
    others, pairs = ~np.eye(6, dtype=bool), np.triu_indices(6, 1)
    descriptors = tasks.descriptors.numpy()
    distances = np.linalg.norm(descriptors[:, None] - descriptors[None], axis=-1)
    expected = {
        "trlearner_mean": matrix[pairs].mean(),
        "trlearner_spread": matrix[pairs].std(),
        "trlearner_row_sum": np.where(others, matrix.clip(0), 0).sum(1).min(),
        "trlearner_omega": (objective.relation.omega - 1).abs().mean().item(),
        "trlearner_agreement": spearmanr(matrix[pairs], -distances[pairs]).statistic,
    }
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-9)


def test_rank_correlation_shares_the_ranks_of_equal_numbers():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (2, 40))
    own = rank_correlation(torch.from_numpy(a), torch.from_numpy(b)).item()
    assert own == pytest.approx(spearmanr(a, b).statistic)
    assert rank_correlation(torch.ones(3), torch.arange(3.0)).isnan()


def test_diagnostics_of_known_relations_agree_and_of_uniform_ones_are_flat():
    tasks = Doubled().batch(range(6))
    assert related(relation=Known()).diagnostics(tasks)["trlearner_agreement"] == pytest.approx(1)
    assert related(relation=Uniform()).diagnostics(tasks) == {
        "trlearner_mean": 1, "trlearner_spread": 0, "trlearner_row_sum": 5,
    }  # fmt: skip
    assert "trlearner_agreement" not in related().diagnostics(Task(*tasks[:2]))


def test_diagnostics_change_nothing():
    """A run with shuffled relations, which draws at every step, is the same however often diagnosed."""
    losses = []
    for every in (1, 7):
        validation = Validation(Doubled("val"), n_tasks=3, every=every)
        objective = related(relation=Shuffled())
        curve = fit(objective, Doubled(), steps=7, meta_batch_size=4, validation=validation)
        assert (curve.metric == "trlearner_spread").sum() == 7 // every
        losses.append(curve[(curve.split == "train") & curve.metric.isin(["query", "trlearner"])])
    pd.testing.assert_frame_equal(*(rows.reset_index(drop=True) for rows in losses), check_exact=True)


def test_each_run_side_by_side_is_diagnosed_as_alone():
    tasks = [Doubled(seed=1), Doubled(seed=2)]
    together = fit_together([related(0), related(1)], tasks, steps=20, meta_batch_size=4)
    for seed, curve in enumerate(together):
        alone = fit(related(seed), tasks[seed], steps=20, meta_batch_size=4)
        pd.testing.assert_frame_equal(curve, alone, rtol=1e-7)
        rows = curve[(curve.step == 20) & (curve.split == "train")].set_index("metric").value
        assert rows.index.tolist() == [
            "query", "trlearner", "trlearner_mean", "trlearner_spread", "trlearner_row_sum",
            "trlearner_omega", "trlearner_agreement", "query_share", "trlearner_share",
        ]  # fmt: skip
        assert rows["query_share"] + rows["trlearner_share"] == pytest.approx(1)
        assert curve.metric.iloc[0] == "query"
        assert curve[curve.metric == "trlearner_spread"].step.tolist() == list(range(2, 21, 2))


def test_plain_runs_have_the_rows_they_had():
    curve = fit(Objective(MAML(mlp(hidden=[8]))), Sinusoid(), steps=3, meta_batch_size=2)
    assert curve.metric.unique().tolist() == ["query"]


def test_a_relation_is_trained_apart_in_every_objective():
    relation = Cosine()
    one, other = (Objective(MAML(mlp()), [TRLearner(relation)]).relation for _ in range(2))
    assert one.omega is not other.omega
    assert relation.omega is None
