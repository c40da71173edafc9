"""Maps of relations between tasks: their groups, figures and command."""

import json
import shutil
import signal
import warnings
from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from metalens import ANIL, ClusteredSinusoid, MetaLensError, Objective, TRLearner, fit, mlp
from metalens.cli import main
from metalens.execution.machine import Machine
from metalens.experiments import RECIPES
from metalens.experiments.experiment import run
from metalens.io.files import new_folder
from metalens.relations import Cosine, Relation
from metalens.relations.clusters import relation_map
from metalens.relations.relate import plain_relation, relate
from metalens.relations.vectors import TaskVector
from metalens.reports import read_metrics, relations_in_words
from metalens.reports.relation_map import relation_figure, relations_summary


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
        assert call(monkeypatch, *words, "--by", "regression", "--tasks", "5") == 0
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
        (lambda f: change(f, recipe="mine"), "There is no recipe 'mine'; choose from"),
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
