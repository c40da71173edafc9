"""Identifiers of rows are noticed, and columns are left out of the inputs by name."""

import warnings

import numpy as np
import pandas as pd
import pytest

from metalens import MetaClassifier, MetaLensError, MetaRegressor, TableTasks
from metalens.cli import main
from metalens.estimators import draws, load_model

ROLES = {"task": "school", "target": "score"}
N, ROWS = 20, 8


@pytest.fixture(scope="module", autouse=True)
def _little_to_do():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "MIN_DRAWS", 3)
        patch.setattr(draws, "SHOTS", ())
        yield


def pupils():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"school": [f"school {i}" for i in np.repeat(np.arange(N), ROWS)]})
    frame["effort"] = rng.normal(size=len(frame)).round(3)
    frame["age"] = rng.integers(6, 30, len(frame))
    frame["score"] = (2 * frame.effort + rng.normal(size=len(frame))).round(3)
    return frame


def fitted(frame, **roles):
    """Return a fitted estimator, and what it says of identifiers and times."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = MetaRegressor(steps=1, hidden=(4,), k_shot=4, n_query=4, baselines=("MeanPredictor",))
        model.fit(frame, **ROLES, **roles)
    notes = [
        str(one.message)
        for one in caught
        if "looks like" in str(one.message) or "look like" in str(one.message)
    ]
    return model, notes


@pytest.mark.parametrize(
    ("column", "values", "is_noted"),
    [
        ("counter", lambda f: f.index + 1, True),  # in the order of the rows
        ("counter", lambda f: np.random.default_rng(1).permutation(len(f)) + 1000.0, True),
        ("counter", lambda f: f.index.astype(str), True),  # as text files hold numbers
        ("nickname", lambda f: [f"pupil {i}" for i in f.index], True),  # a word for each row
        ("student", lambda f: f.index % 40, True),  # the name alone, with several rows each
        ("pupil_id", lambda f: (f.index % 40).astype(str) + "x", True),
        ("rownames", lambda f: f.index * 3, True),
        ("id", lambda f: f.index % 4, False),  # few values may be categories
        ("identity", lambda f: f.index * 7 % 40, False),
        ("money", lambda f: f.index * 3, False),  # distinct, but no counter
        ("noise", lambda f: f.effort**2, False),
        ("id", lambda f: f.effort**2, False),
    ],
)
def test_identifiers_of_rows_are_noted_once_with_their_remedy(column, values, is_noted):
    frame = pupils()
    frame[column] = values(frame)
    model, notes = fitted(frame)
    expected = (
        f"Column {column} looks like an identifier of rows, which says nothing about new ones; give "
        f"exclude=[{column!r}] to leave it out of the inputs."
    )
    assert notes == [expected] * is_noted
    assert column in model.feature_names_in_  # it is only a note


def test_several_identifiers_share_a_note_and_are_no_times():
    frame = pupils().assign(day=lambda f: f.index % 3, student=lambda f: f.groupby("school").cumcount() + 1)
    frame["student"] = 100 * (frame.school.str[7:].astype(int) % 7) + frame.student
    frame["rownames"] = frame.index
    _, notes = fitted(frame)
    assert notes[0].startswith("Columns student, rownames look like identifiers of rows")
    assert "give exclude=['student', 'rownames'] to leave them out" in notes[0]
    assert [note[:26] for note in notes[1:]] == ["Column day looks like a ti"]


@pytest.mark.parametrize(
    "roles", [{"exclude": ["student"]}, {"inputs": ["effort", "student"]}, {"categorical": ["student"]}]
)
def test_columns_with_a_role_are_not_noted(roles):
    frame = pupils().assign(student=lambda f: f.index * (1 if "exclude" in roles else 7) % 40)
    model, notes = fitted(frame, **roles)
    assert notes == []
    assert ("student" in model.feature_names_in_) == ("exclude" not in roles)


def test_the_model_is_that_of_the_table_without_the_columns_also_later(tmp_path):
    frame = pupils()
    wide = frame.assign(rownames=frame.index, note=[None, "late"] * (len(frame) // 2))  # may be empty
    model, _ = fitted(wide, exclude=["rownames", "note"])
    other, _ = fitted(frame)
    pd.testing.assert_frame_equal(model.comparison_, other.comparison_)
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.reader_.columns.exclude == ["rownames", "note"]
    new = frame[:ROWS]  # without the columns
    for of in (model, again):
        np.testing.assert_array_equal(of.adapt(new).predict(new), other.adapt(new).predict(new))
        pd.testing.assert_frame_equal(of.evaluate(wide), other.evaluate(frame))


def test_an_excluded_column_can_be_the_order():
    frame = pupils().assign(year=lambda f: f.groupby("school").cumcount())
    model, _ = fitted(frame, order="year", exclude=["year"])
    assert model.feature_names_in_.tolist() == ["effort", "age"]
    assert model.adapt(frame[:4].drop(columns="year")).n_support == 4


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"exclude": "age"}, "exclude must be a list of columns, got the text 'age'"),
        ({"exclude": ["weight"]}, "The table has no column weight"),
        ({"exclude": ["age", "score"]}, "exclude names score, which has another role; leave it out"),
        ({"exclude": ["age"], "categorical": ["age"]}, "exclude names age, which has another role"),
        ({"exclude": ["age"], "inputs": ["effort"]}, "give inputs or exclude"),
        (
            {"exclude": ["age", "effort"]},
            "The table has no columns for inputs beside school, score, age, effort",
        ),
    ],
)
def test_columns_that_cannot_be_left_out_are_refused(roles, message):
    with pytest.raises(MetaLensError, match=message):
        TableTasks(pupils(), **ROLES, k_shot=2, n_query=2, **roles)


@pytest.mark.slow
def test_identifiers_are_noted_where_classes_are_new_and_by_the_command_line(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"kind": [f"kind {i}" for i in np.repeat(np.arange(12), 8)], "width": rng.random(96)}
    )
    frame["rownames"] = frame.index
    model = MetaClassifier(steps=1, hidden=(4,), baselines=("MeanPredictor",))
    with pytest.warns(UserWarning, match=r"give exclude=\['rownames'\]"):
        model.fit(frame, target="kind")
    pupils().assign(rownames=range(N * ROWS)).to_csv(tmp_path / "pupils.csv", index=False)
    monkeypatch.chdir(tmp_path)
    words = (
        "train --data pupils.csv --task school --target score --k_shot 4 --steps 1 --baselines MeanPredictor"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        main([*words.split(), "--exclude", "rownames", "age"])
    assert "looks like" not in capsys.readouterr().err
    assert load_model("model").feature_names_in_.tolist() == ["effort"]
    assert "<dt><code>exclude</code></dt><dd><code>rownames, age</code></dd>" in (
        tmp_path / "model" / "report.html"
    ).read_text(encoding="utf-8")
