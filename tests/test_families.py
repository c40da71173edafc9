"""Families of tasks on one side of the division, and a note on molecules that are on both."""

import warnings
from itertools import product

import numpy as np
import pandas as pd
import pytest

from metalens import MetaClassifier, MetaLensError, MetaRegressor, TableTasks

ROLES = {"task": "assay", "target": "y"}


def assays(n=40, rows=8, seed=0):
    """Four assays of each study."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"assay": np.arange(n).repeat(rows), "x": rng.normal(size=n * rows)})
    frame["study"] = [f"study {assay // 4}" for assay in frame.assay]
    frame["y"] = frame.x * (1 + frame.assay % 4)
    return frame


def studies(tasks):
    return {int(name) // 4 for name in tasks.task_names}


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_family_is_in_one_split(seed):
    train = TableTasks(assays(), **ROLES, families="study", split_seed=seed, k_shot=2, n_query=2)
    of_splits = [studies(train.in_split(split)) for split in ("train", "val", "test")]
    assert sorted(study for of_split in of_splits for study in of_split) == list(range(10))
    assert [len(of_split) for of_split in of_splits] == [6, 2, 2]
    assert train.encoding.names == ("x",)


def test_another_seed_is_another_division():
    settings = {**ROLES, "families": "study", "k_shot": 2, "n_query": 2}
    assert len({TableTasks(assays(), **settings, split_seed=seed).task_names for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            {"study": lambda f: f.study.where(f.index != 3, "other")},
            {},
            "must say the same in all rows of a task",
        ),
        ({}, {"stratify": "study"}, "families and stratify divide tasks in two ways"),
        ({}, {"families": "source"}, "no column source"),
    ],
)
def test_families_that_cannot_be_used_are_refused(change, settings, message):
    with pytest.raises(MetaLensError, match=message):
        TableTasks(assays().assign(**change), **{**ROLES, "families": "study", "k_shot": 2, **settings})


def test_estimators_hold_whole_families_out():
    settings = {"steps": 1, "hidden": (4,), "baselines": ()}
    model = MetaRegressor(**settings).fit(assays(), **ROLES, families="study")
    assert model.feature_names_in_.tolist() == ["x"]
    held_out = {int(task) // 4 for task in model.comparison_.task}
    assert len(held_out) == 2
    assert {int(task) for task in model.comparison_.task} == {4 * s + i for s in held_out for i in range(4)}
    frame = assays(60).assign(y=lambda f: np.where(f.x > 0, "active", "inactive"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tasks with a class that has one row
        classifier = MetaClassifier(**settings).fit(frame, **ROLES, families="study", split_seed=3)
    assert len({int(task) // 4 for task in classifier.comparison_.task}) == 2


@pytest.mark.parametrize("shared", [0, 6])
def test_molecules_on_both_sides_are_noted(shared):
    pytest.importorskip("rdkit")
    n, rows = 20, 8
    number = np.arange(n * rows)
    number = np.where(number % rows < shared, number % rows, number)  # the first ones are in every assay
    ends = ("C", "N", "O", "F", "Cl", "Br", "I", "S")
    parts = list(product(ends, ("C", "N", "O"), ends))
    y = np.random.default_rng(0).normal(size=n * rows)
    frame = pd.DataFrame({"assay": np.arange(n).repeat(rows), "y": y})
    frame["smiles"] = ["{}CC(=O){}CC{}".format(*parts[i]) for i in number]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MetaRegressor("R2D2", steps=1, hidden=(4,), baselines=()).fit(frame, **ROLES, smiles="smiles")
    found = [str(one.message) for one in caught if "of the molecules of held-out tasks" in str(one.message)]
    assert len(found) == (shared > 0)
