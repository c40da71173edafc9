"""What is known about tasks, and what is found about their relations."""

import json
import pickle
import shutil
import signal
import warnings
from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score
from torch.utils import _pytree as pytree
from torch.utils.data import default_collate

from metalens import (
    ANIL,
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
from metalens.cli import main
from metalens.execution.machine import Machine
from metalens.experiments import RECIPES
from metalens.experiments.experiment import run
from metalens.io.files import new_folder
from metalens.relations import Cosine, Known, Relation, Shuffled, Uniform
from metalens.relations.agreement import rank_correlation
from metalens.relations.clusters import relation_map
from metalens.relations.relate import plain_relation, relate
from metalens.relations.vectors import TaskVector
from metalens.reports import read_metrics, relations_in_words
from metalens.reports.relation_map import relation_figure, relations_summary

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


# Relation maps


@pytest.mark.slow
def test_learned_relations_find_planted_groups():
    """Training makes them; plain cosines of the untrained network do not find them, by any vector."""
    torch.manual_seed(0)
    learner, truth = ANIL(mlp(), inner_lr=0.05, inner_steps=3), ClusteredSinusoid("test")
    learned = Cosine(vector="adaptation")
    objective = Objective(learner, [TRLearner(learned, weight=0.5)])
    groups = truth.batch(range(40)).descriptors.argmax(1).numpy()

    def recovered(related: Relation) -> float:
        found = relate(learner, related, truth, 40)
        return adjusted_rand_score(groups, relation_map(found.matrix, found.names, 4).groups)

    untrained = [recovered(plain_relation(vector)) for vector in get_args(TaskVector)]
    fit(objective, ClusteredSinusoid(), steps=400, meta_batch_size=16, outer_lr=3e-3)
    assert recovered(learned) >= 0.9
    assert max(untrained) < 0.6
    # The mean features of the support ignore its targets, so no training makes them tell.
    assert recovered(plain_relation("features")) < 0.3


BLOCKS = np.kron(np.eye(3), np.ones((4, 4)))[::-1, ::-1] * 0.8 + 0.1


def test_a_map_finds_the_groups_and_says_how_clear_they_are():
    order = np.random.default_rng(0).permutation(12)
    found = relation_map(BLOCKS[np.ix_(order, order)], [str(task) for task in order])
    assert adjusted_rand_score(order // 4, found.groups) == 1
    assert found.groups[found.order].tolist() == sorted(found.groups)
    assert found.silhouette > 0.8
    assert relation_map(BLOCKS, "abcdefghijkl", n_groups=1).n_groups == 1
    assert relation_map(BLOCKS, "abcdefghijkl", n_groups=12).n_groups == 12


def test_relations_that_are_flat_have_no_groups_unless_asked_for():
    flat = 0.9 + 0.05 * BLOCKS
    found = relation_map(flat, list(map(str, range(12))))
    assert found.is_flat
    assert found.n_groups == 1
    assert not any("silhouette" in part for part in relations_summary(found) if isinstance(part, str))
    assert relation_map(flat, list(map(str, range(12))), n_groups=3).n_groups == 3


def test_no_groups_are_made_up():
    """Neither where all relations are equal, nor of noise."""
    rng = np.random.default_rng(0)
    noise = 0.5 + 0.05 * rng.standard_normal((20, 20))
    for matrix in (np.ones((20, 20)), noise):
        found = relation_map(matrix, list(map(str, range(20))))
        assert found.n_groups == 1
        texts = [part for part in relations_summary(found) if isinstance(part, str)]
        assert "That is flat" in texts[0]
        assert texts[1] == "There are no clear groups."
        assert relation_figure(found, "title").axes


@pytest.mark.parametrize(
    ("matrix", "groups", "words"),
    [
        (np.eye(2), None, "at least 3 tasks, got 2"),
        (np.eye(4), 5, "4 tasks can be in 1 to 4 groups, got 5"),
        (np.full((4, 4), np.nan), None, "relations of 4 of 4 tasks are not finite"),
    ],
)
def test_maps_that_are_not_possible_are_refused(matrix, groups, words):
    with pytest.raises(MetaLensError, match=words):
        relation_map(matrix, list("abcd")[: len(matrix)], groups)


def test_many_tasks_are_drawn_without_names():
    found = relation_map(np.kron(np.eye(2), np.ones((40, 40))), [f"task {task}" for task in range(80)])
    named = [text.get_text() for text in relation_figure(found, "title").axes[1].get_yticklabels()]
    assert named == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run of a plain arm, one with TRLearner and one with uniform relations."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    arms = [
        "none",
        "TRLearner(relation=Uniform)",
        "TRLearner(weight=0.3, relation=Cosine(vector=adaptation))",
    ]
    recipe = replace(
        RECIPES["demo"], learner=["ANIL"], regularizers=arms, seeds=[0, 3], steps=3, meta_batch_size=3,
        n_val_tasks=2, n_test_tasks=20, machine=Machine(accelerator="cpu", threads=1),
    )  # fmt: skip
    with new_folder(folder) as path:
        run(recipe, path)
    return folder


def call(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        main(words)
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        signal.signal(signal.SIGTERM, on_term)
    return 0


def test_the_command_shows_draws_and_exports(finished, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, "relations", str(finished), "--tasks", "7", "--out", str(tmp_path / "maps")) == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in ("vector=adaptation)), seed 0, test tasks: learned", "Between tasks", "Nearest tasks",
                  "(A ", "Rank correlation", "test-arm2-seed0.png"):  # fmt: skip
        assert words in text
    table = pd.read_csv(tmp_path / "maps" / "test-arm2-seed0.csv")
    assert table.columns[:2].tolist() == ["task", "group"]
    assert table.task.tolist() == table.columns[2:].tolist()
    matrix = table.iloc[:, 2:].to_numpy()
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(matrix.diagonal(), 1, rtol=1e-5)
    written = pd.read_csv(finished / "relations.csv")
    own = written[written.regularizers.str.contains("adaptation")].query("row < 7 and column < 7")
    np.testing.assert_allclose(own.relation, matrix.ravel(), rtol=1e-3, atol=1e-5)
    assert (tmp_path / "maps" / "test-arm2-seed0.png").read_bytes().startswith(b"\x89PNG")


def test_arms_without_relations_have_plain_cosines(finished, monkeypatch, capsys):
    for arm in ("none", "TRLearner(relation=Uniform)", "0"):
        words = ("relations", str(finished), "--arm", arm, "--seed", "3", "--split", "val", "--tasks", "5")
        assert call(monkeypatch, *words, "--groups", "2", "--by", "labeled") == 0
        text = capsys.readouterr().out
        assert "seed 3, val tasks: plain cosine of labeled" in " ".join(text.split())
        assert "2 groups" in text
    assert call(monkeypatch, "relations", str(finished), "--arm", "none", "--tasks", "3") == 0
    assert "plain cosine of features" in capsys.readouterr().out
    assert (finished / "relations" / "val-arm0-seed3-labeled.csv").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--arm", "MTNet"], "No arm is 'MTNet'; the run has 0: ANIL; 1: ANIL + TRLearner("),
        (["--seed", "9"], "The run has no seed 9; it has 0, 3."),
        (["--tasks", "2"], "--tasks must be at least 3, got 2."),
        (["--groups", "31"], "30 tasks can be in 1 to 30 groups, got 31."),
        (["--split", "future"], "split"),
        (["--by", "x"], "by"),
        (["--tasks", "many"], "tasks"),
    ],
)
def test_mistakes_are_one_sentence(finished, words, sentence, monkeypatch, capsys):
    assert call(monkeypatch, "relations", str(finished), *words) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.startswith("metalens: ")
    assert len(error.strip().splitlines()) == 1
    assert sentence in error


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "manifest.json").unlink(), "is not a finished run: manifest.json is"),
        (lambda f: change(f, recipe="mine"), "The run is of the recipe 'mine', which is not among"),
        (lambda f: change(f, configuration={"stpes": 3}), "another version of MetaLens: demo has no"),
        (lambda f: change(f, configuration={"steps": "many"}), "The manifest of the run is damaged"),
        (lambda f: change(f, configuration={"hidden": [7], "learner": ["ANIL"]}), "does not hold the"),
        (lambda f: (f / "weights" / "arm2-seed0.safetensors").write_bytes(b"x"), "does not hold the"),
        (lambda f: (f / "weights" / "arm2-seed0.safetensors").unlink(), "has no weights of ANIL + TR"),
    ],
)
def test_damaged_runs_are_one_sentence(finished, damage, sentence, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    damage(folder)
    assert call(monkeypatch, "relations", str(folder)) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert sentence in error


def change(folder, **entries):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_the_outcome_tells_flat_relations_from_others(finished):
    flat, other = relations_in_words(read_metrics(finished))
    assert flat.startswith("ANIL + TRLearner(relation=Uniform): relations are flat (1.000 ± 0.000 between")
    assert "relations discriminate between tasks" in other
    assert "their rank correlation with known descriptors is" in other
    assert other.endswith("% of the outer loss.")


def test_a_relation_is_trained_apart_in_every_objective():
    relation = Cosine()
    one, other = (Objective(MAML(mlp()), [TRLearner(relation)]).relation for _ in range(2))
    assert one.omega is not other.omega
    assert relation.omega is None
