"""Regression estimators: rows, tables and arrays, and what is refused of them."""

import math

import numpy as np
import pandas as pd
import pytest
from small_sensors import MODELS, ROLES, TINY, fitted, sensors

from metalens import MetaLensError, MetaRegressor

pytestmark = pytest.mark.usefixtures("few_draws")
SHOTS = ()  # for `few_draws`


@pytest.fixture(scope="module")
def model():
    return fitted(regularizers=["trlearner"])


def test_any_number_of_support_rows_will_do(model):
    new = sensors(1, rows=60, seed=2)
    for n in (1, 2, 30):
        predicted = model.adapt(new[:n]).predict(new[30:])
        assert np.isfinite(predicted).all()
        assert model.adapt(new[:n]).n_support == n


def test_rows_are_predicted_one_by_one_as_together(model):
    new = sensors(1, rows=12, seed=3)
    adapted = model.adapt(new[:6])
    together = adapted.predict(new[6:])
    alone = [adapted.predict(new[row : row + 1])[0] for row in range(6, 12)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_new_rows_may_have_new_categories_and_further_columns_in_any_order(model):
    new = sensors(1, rows=12, seed=4)
    adapted = model.adapt(new[:6])
    other = new[6:].assign(kind="hexagonal", color="red")[["color", "kind", "voltage"]]
    with pytest.warns(
        UserWarning, match="All of the 6 cells of column kind hold categories that no training"
    ):
        neither = adapted.predict(other)
    assert np.isfinite(neither).all()
    assert model.feature_names_in_.tolist() == ["voltage", "kind"]


def test_files_are_read_as_frames_are(model, tmp_path):
    new = sensors(1, rows=12, seed=5)
    new.to_csv(tmp_path / "new.csv", index=False)
    again = pd.read_csv(tmp_path / "new.csv")
    expected = model.adapt(again).predict(again)
    np.testing.assert_array_equal(model.adapt(tmp_path / "new.csv").predict(tmp_path / "new.csv"), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="voltage"), "no column voltage; it has sensor, kind, pressure"),
        (lambda f: f.drop(columns="pressure"), "no column pressure"),
        (lambda f: f.assign(voltage=f.voltage.astype(object).where(f.index != 2, "high")), "Row 3 of colu"),
        (lambda f: f.assign(voltage=f.voltage.where(f.index != 2, math.inf)), "Row 3 .* a finite number"),
        (lambda f: f.assign(voltage=f.voltage.where(f.index != 2)), "Row 3 of column voltage is empty"),
        (lambda f: f.assign(pressure=f.pressure.where(f.index != 1)), "Row 2 of column pressure is empty"),
        (lambda f: f.assign(pressure=["low"] * len(f)), "Row 1 .* must be a number, got 'low'"),
        (lambda f: f.assign(sensor=["a", "b"] * (len(f) // 2)), "rows of 2 tasks by its column sensor"),
        (lambda f: f[:0], "has no rows"),
        (lambda f: f.to_numpy(), "must be a data frame, the path of a file, or arrays by name, got ndarray"),
    ],
)  # fmt: skip
def test_a_support_that_cannot_be_used_is_refused_with_its_place(model, change, message):
    with pytest.raises(MetaLensError, match=message):
        model.adapt(change(sensors(1)))


def test_queries_that_cannot_be_used_are_refused_with_their_place(model):
    adapted = model.adapt(sensors(1))
    with pytest.raises(MetaLensError, match="no column kind"):
        adapted.predict(sensors(1)[["voltage"]])
    with pytest.raises(MetaLensError, match="Row 2 of column voltage must be a number"):
        adapted.predict(pd.DataFrame({"voltage": [1, "x", 2], "kind": "flat"}))


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"task": "patient", "target": "pressure"}, "no column patient"),
        ({"task": "sensor", "target": "kind"}, "column kind must be a number"),
        ({**ROLES, "inputs": "voltage"}, "inputs must be a list of columns, got the text 'voltage'"),
        ({**ROLES, "splits": (0.9, 0.1)}, "three shares"),
    ],
)
def test_columns_that_cannot_be_used_are_refused(roles, message):
    with pytest.raises(MetaLensError, match=message):
        fitted(roles=roles)


def test_new_tables_are_evaluated_as_held_out_tasks_are(model):
    new = sensors(6, seed=7, start=100)
    rows = model.evaluate(new)
    assert set(rows.task) == {f"s{i}" for i in range(100, 106)}
    assert set(rows.model) == set(MODELS)
    of_chosen = rows[(rows.model == model.chosen_) & (rows.metric == "r2")]
    assert model.score(new) == pytest.approx(of_chosen.value.mean())
    assert not rows.equals(model.evaluate(new, k_shot=2, n_query=1))


def test_relations_of_new_tasks_are_mapped_by_name(model):
    found = model.relations(sensors(6, seed=8, start=100), n_groups=2)
    assert set(found.names) == {f"s{i}" for i in range(100, 106)}
    assert found.matrix.shape == (6, 6)
    assert found.n_groups == 2


def test_missing_cells_are_filled_where_that_is_asked_for():
    frame = sensors()
    frame.loc[::7, "voltage"] = math.nan
    model = fitted(frame, {**ROLES, "missing": "mean"})
    new = sensors(1)
    adapted = model.adapt(new)
    hole = pd.DataFrame({"voltage": [math.nan], "kind": ["flat"]})
    assert np.isfinite(adapted.predict(hole)).all()


@pytest.mark.filterwarnings("ignore:.* of the 6 tasks", "ignore:On . held-out tasks")
def test_small_tasks_are_left_out_with_a_count():
    frame = sensors(40)
    small = frame.sensor.isin([f"s{i}" for i in range(10)])
    frame = frame[~small | (frame.groupby("sensor").cumcount() < 3)]
    with pytest.warns(UserWarning, match=r"of the 28 tasks of the train split have fewer than k_shot"):
        MetaRegressor(**TINY).fit(frame, **ROLES)


def test_molecules_are_inputs(monkeypatch, tmp_path):
    pytest.importorskip("rdkit")
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path))
    frame = sensors().assign(molecule=lambda f: ["C" * (1 + i % 9) + "O" * (i % 2) for i in f.index])
    model = fitted(frame, {**ROLES, "smiles": "molecule", "duplicates": "allow"})
    assert model.feature_names_in_.tolist() == ["molecule"]
    adapted = model.adapt(frame[:8])
    assert adapted.predict(pd.DataFrame({"molecule": ["CCN", "c1ccccc1"]})).shape == (2,)
    with pytest.raises(MetaLensError, match="The molecule 'water' in row 1 of column molecule is none"):
        adapted.predict(pd.DataFrame({"molecule": ["water"]}))


def test_arrays_are_tables_too():
    frame = sensors().drop(columns="kind")
    arrays = {
        "sensor": frame.sensor,
        "x": frame[["voltage", "pressure"]].to_numpy(),
        "pressure": frame.pressure,
    }
    model = fitted(arrays)
    assert model.feature_names_in_.tolist() == ["x 0", "x 1"]
    few = {name: values[:8] for name, values in arrays.items()}
    adapted = model.adapt(few)
    np.testing.assert_array_equal(adapted.predict(few), adapted.predict(few["x"]))
    with pytest.raises(MetaLensError, match=r"must have the 2 columns x 0, x 1, got the shape \(8, 1\)"):
        adapted.predict(few["x"][:, :1])
    with pytest.raises(MetaLensError, match=r"one or two axes, got \(8, 1, 2\)"):
        adapted.predict({"x": few["x"][:, None]})
    with pytest.raises(MetaLensError, match=r"the lengths \[7, 8\]"):
        model.adapt({**few, "pressure": few["pressure"][:7]})


def test_a_column_that_is_constant_but_for_rounding_may_have_other_values():
    frame = sensors().assign(size=0.1)
    new = sensors(1, seed=5).assign(size=0.3)
    assert np.isfinite(fitted(frame).adapt(new[:5]).predict(new[5:])).all()


def test_ready_made_inputs_are_refused():
    with pytest.raises(MetaLensError, match="inputs must name columns, got an array"):
        fitted(roles={**ROLES, "inputs": np.arange(160.0)[:, None]})


@pytest.mark.parametrize(
    ("option", "words"),
    [("ema", "no setting ema; there are y, groups"), ("taks", "no setting taks; the nearest is task.")],
)
def test_only_a_near_name_is_proposed(option, words):
    with pytest.raises(MetaLensError, match=words):
        MetaRegressor().fit("table.csv", **{option: 0.9})
