"""Targets from tables: classes and numbers, their kinds and their scale."""

import numpy as np
import pytest
import torch
from small_table import ROWS, rows_of, small_table, tasks_of

from metalens import MAML, MetaLensError, Ridge, Sinusoid, evaluate, mlp


@pytest.fixture
def table():
    return small_table()


def test_targets_can_be_standardized_within_their_task(table):
    task = tasks_of(table, "test", standardize="task", k_shot=9)[0]
    y = torch.cat([examples.y for examples in task[:2]])
    assert y.mean().item() == pytest.approx(0, abs=1e-6)
    assert y.std(unbiased=False).item() == pytest.approx(1, rel=1e-5)


def classified(table, **changes):
    """The tasks with classes: rare ones of three words; assay9 lacks one of them."""
    words = np.array(["inactive"] * 8 + ["active"] * 3 + ["toxic"])[table.row % ROWS]
    words = np.where((table.assay == "assay9") & (words == "toxic"), "active", words)
    return tasks_of(table.assign(outcome=words), "test", target="outcome", **changes)


@pytest.mark.parametrize("group", [None, "pair"])
def test_words_are_classes_that_mean_the_same_in_all_tasks(table, group):
    tasks = classified(table.assign(pair=table.row), group=group)
    assert tasks.class_names == ("active", "inactive", "toxic")
    assert tasks.n_outputs == tasks.n_classes == 3
    assert not tasks.extra_metrics
    assert tasks.with_global_labels() is tasks
    for number in range(30):
        task = tasks[number]
        for examples in task[:2]:
            assert examples.y.dtype == torch.int64
            place = rows_of(examples) % ROWS
            expected = np.where(
                place < 8, 1, np.where((place < 11) | (tasks.task_name(number) == "assay9"), 0, 2)
            )
            np.testing.assert_array_equal(examples.y, expected)
        assert set(task.support.y.tolist()) == ({0, 1, 2} if number % 2 == 0 else {0, 1})
        assert len(set(rows_of(task.support)) | set(rows_of(task.query))) == 7
    assert set(evaluate(Ridge(n_outputs=3), tasks, n_tasks=2).metric) == {"accuracy", "cross_entropy"}


def test_classes_that_a_model_knows_keep_their_outputs(table):
    tasks = classified(table, classes=["toxic", "unknown", "active", "inactive"])
    assert tasks.class_names == ("toxic", "unknown", "active", "inactive")
    assert tasks.n_outputs == 4
    task = tasks[0]
    place = rows_of(task.query) % ROWS
    np.testing.assert_array_equal(task.query.y, np.where(place < 8, 3, np.where(place < 11, 2, 0)))
    with pytest.raises(
        MetaLensError, match=r"Row \d+ of column outcome must be one of the classes active, ina"
    ):
        classified(table, classes=["active", "inactive"])


def test_kinds_of_targets(table):
    frame = table.assign(hit=table.row % 2, truth=table.row % 2 == 0, same="yes")
    with pytest.warns(UserWarning, match="Column hit holds 2 different whole numbers, 0, 1, .* as classes"):
        assert tasks_of(frame, target="hit").class_names == ("0", "1")
    assert tasks_of(frame, target="hit", kind="regression").class_names == ()
    assert tasks_of(frame, target="truth").class_names == ("False", "True")
    with pytest.raises(MetaLensError, match="Column same names one class, yes, in all rows"):
        tasks_of(frame, target="same")


def test_what_was_done_to_targets_is_known(table):
    tasks = tasks_of(table, "test", standardize="train")
    known = table[table.split == "train"].activity
    assert tasks.target_mean == pytest.approx(known.mean())
    assert tasks.target_deviation == pytest.approx(known.std(ddof=0))
    assert tasks.metadata()["target_mean"] == tasks.target_mean


def test_targets_that_never_differ_are_counted_or_refused(table):
    level = table.activity.where(table.assay != "assay3", 2.0)
    with pytest.warns(
        UserWarning, match=r"In 1 of the 6 tasks of the train split \(such as assay3\), activity"
    ):
        tasks_of(table.assign(activity=level))
    with pytest.warns(UserWarning, match="In 2 of the 2 tasks of the test split"):
        tasks_of(table.assign(activity=table.activity.where(table.split != "test", 1.0)), "test")
    with pytest.raises(
        MetaLensError, match="Within each training task, such as assay0, activity is the same"
    ):
        tasks_of(table.assign(activity=table.assay.str[5:].astype(float)), kind="regression")


def test_tables_are_scored_by_correlation_too(table):
    learner = MAML(mlp(1, 1, [4]), inner_lr=1e-4)
    rows = evaluate(learner, tasks_of(table, "test"), n_tasks=2)
    assert rows.metric.tolist() == ["mse", "mse", "pearson_r2", "pearson_r2"]
    assert evaluate(learner, Sinusoid("test"), n_tasks=2).metric.tolist() == ["mse", "mse"]
