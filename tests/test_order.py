"""Support rows in the order of time: the earliest of a task, and later ones to predict."""

import warnings

import numpy as np
import pandas as pd
import pytest

from metalens import MetaLensError, MetaRegressor, TableTasks
from metalens.data.tables.drawing import TaskRows
from metalens.estimators import draws

ROLES = {"task": "shop", "target": "sales"}


def shops(n=30, rows=12, seed=0, dates=False):
    """Rows in random order, whose number in time is the first input."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"shop": np.arange(n).repeat(rows), "year": np.tile(np.arange(rows), n)})
    frame["sales"] = rng.normal(size=n).repeat(rows) + rng.normal(size=n).repeat(rows) * frame.year
    frame["size"] = rng.normal(size=n * rows)
    if dates:
        frame["year"] = pd.to_datetime("2001-03-01") + pd.to_timedelta(frame.year * 31, unit="D")
    return frame.sample(frac=1, random_state=seed, ignore_index=True)


def years(examples, tasks):
    place = tasks.encoding.names.index("year")
    column = tasks.encoding.columns[place]
    return (examples.x[:, place].numpy() * column.deviation + column.mean).round().astype(int).tolist()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_support_is_the_earliest_rows_and_queries_are_later(split):
    tasks = TableTasks(shops(), split, **ROLES, order="year", k_shot=4, n_query=3)
    drawn = set()
    for number in range(60):
        task = tasks[number]
        assert years(task.support, tasks) == [0, 1, 2, 3]
        later = years(task.query, tasks)
        assert set(later) <= set(range(4, 12))
        drawn |= set(later)
    assert drawn == set(range(4, 12))
    assert years(tasks.with_shots(0)[0].support, tasks) == []


@pytest.mark.parametrize(
    "spell",
    [
        lambda times: times,
        lambda times: times.dt.strftime("%Y-%m-%d"),
        lambda times: times.dt.strftime("%b %Y"),
        lambda times: times.dt.to_period("M"),
        lambda times: (times - times.min()).dt.days,
        lambda times: times.dt.strftime("%Y%m").astype(int),
    ],
)
def test_times_of_any_type_are_an_order(spell):
    plain, other = shops(), shops(dates=True)
    other["when"] = spell(other.pop("year"))
    other["year"] = plain.year
    tasks = TableTasks(other, **ROLES, order="when", inputs=["year", "size"], k_shot=2, n_query=4)
    for number in range(10):
        assert years(tasks[number].support, tasks) == [0, 1]


def test_dates_are_no_input_by_themselves():
    tasks = TableTasks(shops(dates=True), **ROLES, order="year", k_shot=2, n_query=4)
    assert tasks.encoding.names == ("size",)


def test_rows_of_a_group_are_not_on_both_sides():
    rows = TaskRows(np.arange(6), np.array([0, 1, 1, 2, 3, 3]), ranks=np.array([0, 1, 2, 3, 4, 5.0]))
    support, query = rows.draw(np.random.default_rng(0), 2, 2)
    assert support.tolist() == [0, 1]
    assert set(query) <= {3, 4, 5}
    assert rows.is_enough(2, 3)
    assert not rows.is_enough(2, 4)
    assert rows.draw(np.random.default_rng(0), 2, None)[1].tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("change", "roles", "message"),
    [
        ({"year": lambda f: f.year.where(f.index != 4)}, {}, "Row 5 of column year is empty"),
        ({"year": "soon"}, {}, "must hold numbers or times to be the order, but row 1 holds 'soon'"),
        ({"role": "query"}, {"roles": "role"}, "roles and order both say which rows are support"),
        ({}, {"order": "month"}, "no column month"),
        ({}, {"order": ["year"]}, "order must be"),
    ],
)
def test_orders_that_cannot_be_used_are_refused(change, roles, message):
    with pytest.raises(MetaLensError, match=message):
        TableTasks(shops().assign(**change), **{**ROLES, "order": "year", "k_shot": 2, "n_query": 4, **roles})


def trained(frame, **roles):
    return MetaRegressor(steps=60, hidden=(16,), k_shot=4, n_query=4, baselines=["Ridge"]).fit(
        frame, **ROLES, **roles
    )


def test_an_estimator_is_calibrated_on_later_rows(monkeypatch):
    monkeypatch.setattr(draws, "SHOTS", ())
    frame, new = shops(60), shops(40, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ordered, drawn = trained(frame, order="year"), trained(frame)
    inside = {"ordered": [], "drawn": []}
    for _, of_one in new.sort_values("year").groupby("shop"):
        for name, model in (("ordered", ordered), ("drawn", drawn)):
            low, high = model.adapt(of_one[:4]).predict_interval(of_one[4:], 0.8).T
            inside[name].append(((low <= of_one.sales[4:]) & (of_one.sales[4:] <= high)).mean())
    assert np.mean(inside["ordered"]) > 0.65
    assert np.mean(inside["drawn"]) < np.mean(inside["ordered"]) - 0.1  # calibrated between known rows


@pytest.mark.parametrize(
    ("column", "values", "is_noted"),
    [
        ("year", lambda f: f.year, True),
        ("visit_date", lambda f: "2001-01-01", True),
        ("dose", lambda f: f.groupby("shop").cumcount() * 2.5, True),
        ("dose", lambda f: f["size"], False),
        ("rownames", lambda f: f.index, False),
        ("lifetime", lambda f: f["size"], False),
    ],
)
def test_a_column_that_looks_like_time_is_noted_once(column, values, is_noted):
    frame = shops().assign(kept=values).drop(columns="year").rename(columns={"kept": column})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MetaRegressor(steps=1, hidden=(4,), baselines=()).fit(frame, **ROLES, inputs=["size"])
    found = [str(one.message) for one in caught if "looks like a time" in str(one.message)]
    assert len(found) == is_noted
    assert all(f"give order={column!r}" in text for text in found)
