"""Tasks from time series: on small synthetic ones, and on M4 where it is."""

import numpy as np
import pandas as pd
import pytest
import torch

from metalens import (
    MAML,
    Examples,
    M4Hourly,
    MetaLensError,
    SeasonalNaive,
    SeriesTasks,
    Sinusoid,
    evaluate,
    mlp,
)
from metalens.data.catalog.m4 import M4_HOURLY, load_m4_hourly
from metalens.evaluation import undefined_scores

P, N, LENGTH, HORIZON = 20, 60, 6, 3
SPLITS = ("train", "val", "test")


@pytest.fixture
def numbers():
    """Twenty series; each value says which series and which time it is of."""
    return 1000.0 * np.arange(P)[:, None] + np.arange(N)


def tasks_of(data, split="train", **changes):
    settings = {"length": LENGTH, "horizon": HORIZON, "k_shot": 4, "n_query": 3, "scale": "none"}
    return SeriesTasks(data, split, **(settings | changes))


def times_of(examples):
    return torch.cat(list(examples), dim=-1).long().numpy() % 1000


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("queries", ["random", "last"])
def test_bulk_equals_single_in_any_order(numbers, split, queries):
    tasks, indices = tasks_of(numbers, split, queries=queries), [9, 0, 31, 9]
    bulk = tasks.batch(indices)
    for place, index in enumerate(indices):
        one = tasks_of(numbers, split, queries=queries)[index]
        assert all(torch.equal(many[place], t) for many, t in zip(bulk.tensors, one.tensors, strict=True))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("queries", ["random", "last"])
def test_support_lies_before_query_and_shares_no_value_with_it(numbers, split, queries):
    tasks = tasks_of(numbers, split, queries=queries)
    cuts = set()
    for index in range(60):
        task = tasks[index]
        for examples in task[:2]:
            assert (torch.cat(list(examples), -1) // 1000 == int(tasks.task_name(index))).all()
            times = times_of(examples)
            assert (np.diff(times) == 1).all()
            assert len(set(times[:, 0])) == len(times)
        support, query = map(times_of, task[:2])
        assert support.max() < query.min()
        cuts.add(query.min())
        if queries == "last":
            assert query[:, LENGTH:].ravel().tolist() == list(range(N - 3 * HORIZON, N))
    assert len(cuts) > 10 if queries == "random" else len(cuts) == 1


@pytest.mark.parametrize("queries", ["random", "last"])
def test_the_shortest_possible_series_is_used_and_a_shorter_one_is_not(queries):
    least = 2 * (LENGTH + HORIZON) + 3 + 2 * (HORIZON if queries == "last" else 1)
    series = {"long": np.arange(least), "short": np.arange(least - 1)}
    with pytest.warns(UserWarning, match=rf"1 of the 2 series .* \(such as short\) .* {least} values"):
        tasks = tasks_of(series, splits={"long": "train", "short": "train"}, queries=queries)
    assert tasks.task_names == ("long",)
    support, query = map(times_of, tasks[0][:2])
    assert support.max() < query.min()
    assert query.max() == least - 1


def test_no_series_is_in_two_splits(numbers):
    parts = [tasks_of(numbers, split).task_names for split in SPLITS]
    assert sorted(sum(parts, ()), key=int) == [str(number) for number in range(P)]
    assert [len(part) for part in parts] == [14, 3, 3]


def table_of(numbers, **columns):
    series, time = np.divmod(np.arange(numbers.size), numbers.shape[1])
    table = pd.DataFrame({"series": series, "time": time, "value": numbers.ravel()}).assign(**columns)
    return table.sample(frac=1, random_state=0)


@pytest.mark.parametrize("kind", ["numbers", "dates", "texts", "zones"])
def test_a_table_in_any_order_gives_the_same_tasks(numbers, tmp_path, kind):
    table = table_of(numbers)
    if kind != "numbers":
        table["time"] = pd.Timestamp("2020-01-31") + pd.to_timedelta(table.time, "h")
    if kind == "zones":
        table["time"] = table.time.dt.tz_localize("UTC")
    if kind == "texts":
        table.to_csv(tmp_path / "table.csv.gz", index=False)
        table = tmp_path / "table.csv.gz"
    expected = tasks_of(numbers).batch(range(5))
    torch.testing.assert_close(tasks_of(table).batch(range(5)), expected)


def test_months_have_no_gaps_and_windows_cross_none(numbers):
    table = table_of(numbers)
    months = table.assign(time=pd.date_range("2020-01-01", periods=N, freq="MS")[table.time])
    torch.testing.assert_close(tasks_of(months)[3], tasks_of(numbers)[3])
    gaps = table[table.time != 30]
    for index in range(40):
        for examples in tasks_of(gaps)[index][:2]:
            assert (np.diff(times_of(examples)) == 1).all()


def test_windows_are_scaled_by_their_inputs_alone(numbers):
    plain, scaled = (tasks_of(np.sin(numbers) * 7, "test", scale=scale)[1] for scale in ("none", "window"))
    for before, after in zip(plain[:2], scaled[:2], strict=True):
        mean = before.x.mean(1, keepdim=True)
        deviation = before.x.std(1, keepdim=True, unbiased=False)
        torch.testing.assert_close(after.x, (before.x - mean) / deviation)
        torch.testing.assert_close(after.y, (before.y - mean) / deviation)
    constant = tasks_of(np.full((P, N), 5.0), scale="window")[0]
    assert (constant.support.x == 0).all()


def test_scaling_by_the_training_series(numbers):
    with pytest.raises(MetaLensError, match="scaled by the training series, and there is none"):
        tasks_of(numbers, "test", scale="train", splits=dict.fromkeys(range(P), "test"))
    train = tasks_of(numbers)
    known = numbers[[int(name) for name in train.task_names]]
    task = tasks_of(numbers, "test", scale="train")[0]
    expected = (tasks_of(numbers, "test")[0].query.y - known.mean()) / known.std()
    torch.testing.assert_close(task.query.y, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", ["window", "none"])
def test_scores_are_those_of_the_competition_in_the_units_of_the_data(scale):
    rng = np.random.default_rng(0)
    series = rng.uniform(10, 20, (P, N))
    tasks = tasks_of(series, "test", scale=scale, season=4, queries="last")
    indices = [2, 0, 5]
    batch = tasks.batch(indices)
    forecast = batch.query.y + torch.from_numpy(rng.normal(size=batch.query.y.shape)).float()
    scores = tasks.extra_scores(indices, forecast, batch.query.y)
    for place, index in enumerate(indices):
        values = series[int(tasks.task_name(index))]
        smape, mase = [], []
        for q in range(3):
            first = N - (3 - q) * HORIZON
            truth, inputs = values[first : first + HORIZON], values[first - LENGTH : first]
            level, spread = (inputs.mean(), inputs.std()) if scale == "window" else (0, 1)
            p = forecast[place, q].double().numpy() * spread + level
            smape.append(200 * np.mean(np.abs(p - truth) / (np.abs(p) + np.abs(truth))))
            mase.append(np.abs(p - truth).mean() / np.abs(values[4:first] - values[: first - 4]).mean())
        assert scores["smape"][place].item() == pytest.approx(np.mean(smape), rel=1e-4)
        assert scores["mase"][place].item() == pytest.approx(np.mean(mase), rel=1e-4)


def test_scores_stand_beside_the_usual_ones(numbers):
    tasks = tasks_of(numbers, "test", scale="window")
    learner = MAML(mlp(LENGTH, HORIZON, [4]), inner_lr=1e-4)
    metrics = ["mse", "smape", "mase"]
    assert evaluate(learner, tasks, n_tasks=3).metric.unique().tolist() == metrics
    assert undefined_scores(learner, tasks, n_tasks=2).metric.unique().tolist() == metrics
    assert evaluate(learner, tasks, n_tasks=3).value.isna().sum() == 0
    assert (
        tasks.extra_scores([0], tasks.batch([0]).query.y / 0, tasks.batch([0]).query.y)["mase"].isinf().all()
    )
    assert Sinusoid().extra_scores([0], torch.zeros(1), torch.zeros(1)) == {}


def test_the_seasonal_naive_forecast_repeats_the_last_season():
    season = np.random.default_rng(0).uniform(1, 9, (P, 4))
    series = np.tile(season, 15)
    tasks = tasks_of(series, "test", season=4, scale="window")
    learner = SeasonalNaive(HORIZON, season=4)
    rows = evaluate(learner, tasks, n_tasks=3)
    assert rows.value.abs().max() < 1e-4
    assert evaluate(SeasonalNaive(HORIZON), tasks, n_tasks=3).value.min() > 0.01
    x = torch.arange(12.0).view(2, 6)
    forecast = SeasonalNaive(5, season=3)(Examples(x, torch.zeros(2, 5)))(x)
    assert forecast.tolist() == [[3, 4, 5, 3, 4], [9, 10, 11, 9, 10]]
    with pytest.raises(MetaLensError, match="windows of 7 values or more, got 6"):
        SeasonalNaive(5, season=7)(Examples(x, torch.zeros(2, 5)))(x)
    with pytest.raises(MetaLensError, match="season must be at least 1, got 0"):
        SeasonalNaive(1, season=0)
    with pytest.raises(MetaLensError, match="forecasts numbers, got classes"):
        SeasonalNaive(5)(Examples(x, torch.tensor([0, 1])))(x)


def changed(table, row, column, value):
    table = table.sort_index().astype(object)
    table.loc[row, column] = value
    return table


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda t: t.drop(columns="time"), "The table has no column time; it has series, value"),
        (lambda t: t.iloc[:0], "The table has no rows"),
        (lambda t: changed(t, 7, "value", "n/a"), "Row 8 of column value must be a finite number, got 'n/a'"),
        (lambda t: changed(t, 7, "value", np.inf), "Row 8 of column value must be a finite number, got inf"),
        (lambda t: changed(t, 8, "series", None), "Row 9 of column series must be a name, got None"),
        (
            lambda t: changed(t, 9, "time", "soon"),
            "Row 10 of column time must be a number or date, got 'soon'",
        ),
        (
            lambda t: pd.concat([t, t.tail(1)]),
            r"Series \d+ has two values at time \d+ \(row 1201 is the second",
        ),
        (lambda t: {"a": np.array([1.0, np.nan])}, r"Series a: value\[1\] is nan, and must be finite"),
        (lambda t: {"a": ["x"]}, "Series a must be numbers along one axis, got <U1"),
        (lambda t: np.zeros((3, 50, 2)), r"Series 0 must be numbers along one axis, got .* \(50, 2\)"),
        (
            lambda t: np.zeros((20, 20)),
            "None of the 14 series of the train split .* for 4 support and 3 later",
        ),
    ],
)
def test_bad_data_are_one_sentence(numbers, data, words):
    with pytest.raises(MetaLensError, match=words):
        tasks_of(data(table_of(numbers)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"length": 0}, "length must be at least 1"),
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"queries": "first"}, "queries must be one of random, last, got 'first'"),
        ({"scale": "all"}, "scale must be one of window, train, none, got 'all'"),
        ({"splits": (0.5, 0.2)}, "splits must be three shares"),
        ({"n_train_tasks": 15}, "n_train_tasks must be at most 14"),
    ],
)
def test_wrong_settings_are_refused(numbers, changes, words):
    with pytest.raises(MetaLensError, match=words):
        tasks_of(numbers, **changes)


def test_files_that_are_none_are_refused(tmp_path, monkeypatch):
    (tmp_path / "table.csv.gz").write_bytes(b"no gzip")
    (tmp_path / "empty.csv").write_bytes(b"")
    for name, words in (
        ("table.csv.gz", r"Cannot read .* as a table \(BadGzipFile\)"),
        ("empty.csv", "is empty; give a CSV file"),
        ("missing.csv", "There is no file .*missing.csv"),
    ):
        with pytest.raises(MetaLensError, match=words):
            tasks_of(tmp_path / name)
    with pytest.raises(
        MetaLensError,
        match=r"m4-hourly is not in .*; from http.*, write the rows of .* into m4_hourly.csv.gz",
    ):
        M4Hourly(folder=tmp_path)
    monkeypatch.delenv("METALENS_DATA", raising=False)
    with pytest.raises(MetaLensError, match="m4-hourly is not in any folder, as METALENS_DATA names none"):
        M4Hourly()


@pytest.fixture
def m4_folder(data_folder):
    if not (data_folder / "tables" / M4_HOURLY.files[0]).is_file():
        pytest.skip(f"no M4 in {data_folder}; set METALENS_DATA")
    return data_folder


def test_m4_has_its_series_and_test_period(m4_folder):
    splits = {split: M4Hourly(split, folder=m4_folder) for split in SPLITS}
    assert [len(tasks.task_names) for tasks in splits.values()] == [290, 62, 62]
    names = [name for tasks in splits.values() for name in tasks.task_names]
    assert len(set(names)) == 414
    test = M4Hourly("test", folder=m4_folder, scale="none")
    values = load_m4_hourly(M4_HOURLY.require(m4_folder))[test.task_name(7)]
    np.testing.assert_allclose(test[7].query.y[-1], values[-48:], rtol=1e-6)
    np.testing.assert_allclose(test[7].query.x[-1], values[-48 - 168 : -48], rtol=1e-6)
    naive = evaluate(SeasonalNaive(48, season=24), splits["test"], n_tasks=62)
    assert np.isfinite(naive.value).all()


MONTHS = pd.date_range("2013-01-01", periods=N, freq="MS")
READ = ["%Y-%m-%d", "%Y-%m", "%Y%m", "%Y%m%d", "%b %Y", "%b-%Y", "%B %Y", "%m/%Y", "%Y/%m/%d", "%d.%m.%Y",
        "%d-%b-%Y", "%b %d, %Y", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M"]  # fmt: skip


def monthly(numbers, times):
    return table_of(numbers).assign(time=lambda frame: np.asarray(times)[frame.time])


@pytest.mark.parametrize("form", READ)
@pytest.mark.parametrize("by_file", [True, False])
def test_months_are_months_in_any_usual_spelling(numbers, form, by_file, tmp_path):
    table = monthly(numbers, MONTHS.strftime(form))
    if by_file:
        table.to_csv(tmp_path / "a.csv", index=False)
        table = tmp_path / "a.csv"
    torch.testing.assert_close(tasks_of(table).batch(range(5)), tasks_of(numbers).batch(range(5)))


@pytest.mark.parametrize(
    "times",
    [
        pd.period_range("2013-01", periods=N, freq="M"),
        pd.period_range("2001Q1", periods=N, freq="Q").astype(str),
        pd.date_range("2013-01-07", periods=N, freq="W-MON").strftime("%G-W%V"),
        pd.to_timedelta(np.arange(N), "D"),
        MONTHS.date,
        pd.Categorical(MONTHS.strftime("%Y-%m")),
        np.arange(N) / 12 + 2013,
    ],
    ids=["periods", "quarters", "weeks", "spans", "dates", "categories", "years"],
)
def test_times_of_any_type_are_equally_spaced(numbers, times):
    torch.testing.assert_close(tasks_of(monthly(numbers, times))[3], tasks_of(numbers)[3])


def test_years_with_two_digits_are_read_with_a_note(numbers):
    with pytest.warns(UserWarning, match=r"Times of column time such as '.*' are read as 20\d\d-"):
        tasks = tasks_of(monthly(numbers, MONTHS.strftime("%b-%y")))
    torch.testing.assert_close(tasks[3], tasks_of(numbers)[3])


def test_days_that_may_be_months_are_refused_and_others_not(numbers):
    with pytest.raises(MetaLensError, match="of which the day may as well be the month; write them as 2013"):
        tasks_of(monthly(numbers, MONTHS.strftime("%d/%m/%Y")))
    days = pd.date_range("2013-01-01", periods=N)
    for form in ("%d/%m/%Y", "%m/%d/%Y"):
        torch.testing.assert_close(tasks_of(monthly(numbers, days.strftime(form)))[3], tasks_of(numbers)[3])


@pytest.mark.parametrize("left_out", [[], ["2013-01-21", "2013-02-18"]])
def test_weekends_and_holidays_are_no_gaps(numbers, left_out):
    days = pd.bdate_range("2013-01-01", periods=N + len(left_out))
    days = days[~days.isin(pd.to_datetime(left_out))][:N]
    torch.testing.assert_close(tasks_of(monthly(numbers, days))[3], tasks_of(numbers)[3])


def test_windows_that_cross_gaps_are_counted_if_they_are_many(numbers):
    table = table_of(numbers)
    with pytest.warns(UserWarning, match=r"\d+ of the \d+ windows of all series cross a gap in time"):
        tasks_of(table[(table.time % 20) != 9])


@pytest.mark.parametrize("name", ["series", "time", "value"])
def test_levels_of_the_index_are_columns_of_series(numbers, name):
    table = table_of(numbers)
    expected = tasks_of(table)[3]
    torch.testing.assert_close(tasks_of(table.set_index(name))[3], expected)
    torch.testing.assert_close(tasks_of(table.set_index(["series", "time"]))[3], expected)
    with pytest.raises(MetaLensError, match=f"{name} must be the name of one column, got a list of 2"):
        tasks_of(table, **{name: ["a", "b"]})
