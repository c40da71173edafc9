"""Tasks from time series: one task is one series, one example a window of it and the values that follow."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from metalens.data.base import Split
from metalens.data.checks import as_array, check_choices, check_finite, check_sizes
from metalens.data.named_tasks import NamedTasks, split_tasks
from metalens.data.tables.columns import check_form, check_names
from metalens.data.tables.reading import check_columns, naming_file, read_table
from metalens.data.times import clock_of
from metalens.errors import MetaLensError
from metalens.tasks import Examples, Task

if TYPE_CHECKING:
    import pandas as pd

Queries = Literal["random", "last"]
Scaling = Literal["window", "train", "none"]

_GAP = 1.5  # usual steps of time; months differ by less
_MANY = 1 / 3  # windows that cross a gap, of all: more are mentioned
_CONSTANT = 1e-6  # deviation of a constant window, relative to its mean


class Series(NamedTuple):
    """One time series."""

    values: np.ndarray  # (n,) float64, in the order of time
    starts: np.ndarray  # (m,) first places of windows without a gap, ascending


class SeriesTasks(NamedTasks):
    """Forecasting tasks from time series: the next `horizon` values of a window of `length` values.

    A task is one series. Its support windows lie before its query windows in time and share no value with
    them, neither as input nor as target. Windows never cross a gap, a time step of more than 1.5 times the
    median of the series; weekends and holidays are none where no series has a value on them.

    Training goes through the series in a new random order each round; validation and test series come in
    the order of their names. Each return to a series draws other windows.

    `evaluate` also reports two scores in the units of the data: `smape`, the symmetric mean absolute
    percentage error (0 to 200), and `mase`, the mean absolute error divided by that of the naive forecast
    (of one season earlier) over all values of the series before the first predicted one, or by 1 if it is 0.

    Args:
        data: a long table, as a data frame or the path of a CSV file, which may be compressed; or series by
            name, arrays `(n,)` of equally spaced values; or an array `(P, n)` of P such series.
        split: `"train"`, `"val"` or `"test"`.
        series: the column of the table that names the series.
        time: its column of times: numbers, dates in ISO or another usual form, months such as `Jan 2013`,
            201301 or `2013Q1`.
        value: its column of values.
        length: number of values of an input.
        horizon: number of values to predict.
        season: period of the naive forecast in values; 24 for hours of a day.
        splits: shares of series in train, val and test, divided by `hashed_order` of their names, whatever
            the seed; or the split of every series by its name.
        k_shot: support windows per task.
        n_query: query windows per task.
        queries: `"random"` windows after a random time, or the `"last"` ones of the series, with consecutive
            targets that do not overlap.
        n_train_tasks: how many series to train on, chosen at random by the seed; `None` for all.
        scale: standardize inputs and targets by the mean and deviation of the inputs of each `"window"` or of
            all values of the training series, `"train"`; or not, `"none"`.
        sep: of a file; see `Columns`, also for the next three.
        encoding: of a text file without a byte-order mark.
        decimal: point of numbers that are written as text.
        thousands: mark between thousands of such numbers.
        seed: see `TaskDistribution`.

    Attributes:
        task_names: the P series of the split, in the order of their names.

    Raises:
        MetaLensError: a column is missing, a value is not finite, a time occurs twice, no series of the split
            is long enough, or a setting is out of range.

    >>> waves = np.sin(np.arange(100) + np.arange(20)[:, None])
    >>> tasks = SeriesTasks(waves, "train", length=12, horizon=3, k_shot=5, n_query=4)
    >>> tasks[0].support.x.shape, tasks[0].query.y.shape
    (torch.Size([5, 12]), torch.Size([4, 3]))
    """

    def __init__(
        self,
        data: pd.DataFrame | str | os.PathLike[str] | Mapping[str, Any] | np.ndarray | Tensor,
        split: Split = "train",
        *,
        series: str = "series",
        time: str = "time",
        value: str = "value",
        length: int,
        horizon: int = 1,
        season: int = 1,
        splits: Sequence[float] | Mapping[str, str] = (0.7, 0.15, 0.15),
        k_shot: int = 5,
        n_query: int = 5,
        queries: Queries = "random",
        n_train_tasks: int | None = None,
        scale: Scaling = "window",
        sep: str | None = None,
        encoding: str | None = None,
        decimal: str = ".",
        thousands: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(split, k_shot=k_shot, n_query=n_query, n_train_tasks=n_train_tasks, seed=seed)
        check_sizes(length=length, horizon=horizon, season=season)
        check_choices(queries=(queries, Queries), scale=(scale, Scaling))
        self.length, self.horizon, self.season = length, horizon, season
        self.queries: Queries = queries
        self.scale: Scaling = scale
        check_form(sep, encoding, decimal, thousands)
        form = {"sep": sep, "encoding": encoding, "decimal": decimal, "thousands": thousands}
        values_of = read_series(data, series, time, value, **form)
        split_of = split_tasks(values_of, splits)
        of_all = values_of.items()
        found = {name: Series(values, self._starts(gaps, len(values))) for name, (values, gaps) in of_all}
        enough = {name: one for name, one in found.items() if self._cuts(one.starts)}
        self._report_gaps(found)
        self._report_short([name for name in found if split_of[name] == split], enough)
        of = {part: [name for name in enough if split_of[name] == part] for part in get_args(Split)}
        train = self.set_tasks(of["train"], of[split])
        self._series = [enough[name] for name in self.task_names]
        self._level = (0.0, 1.0)
        if scale == "train":
            if not train:
                raise MetaLensError(
                    "Values are scaled by the training series, and there is none that is long enough; give "
                    "the train split more, or set scale='window'."
                )
            known = np.concatenate([enough[name].values for name in train])
            self._level = (known.mean(), known.std() or 1.0)

    def metadata(self) -> dict[str, Any]:
        values = sum(len(one.values) for one in self._series)
        return {"tasks": len(self.task_names), "values": values}

    def draw_tasks(self, places: Sequence[int], rngs: Sequence[np.random.Generator]) -> Task:
        starts = map(self._draw_starts, places, rngs)
        drawn = [self._windows(place, of_task) for place, of_task in zip(places, starts, strict=True)]
        windows = np.stack([(window - level) / scale for window, level, scale in drawn]).astype(np.float32)
        x, y = (torch.from_numpy(part) for part in (windows[..., : self.length], windows[..., self.length :]))
        k = self.k_shot
        return Task(Examples(x[:, :k], y[:, :k]), Examples(x[:, k:], y[:, k:])).as_batch()

    def extra_scores(self, indices: Sequence[int], predictions: Tensor, y: Tensor) -> dict[str, Tensor]:
        if predictions.shape != y.shape:  # no forecasts, but quantiles or a spread
            return {}
        scores: dict[str, list[float]] = {"smape": [], "mase": []}
        for index, scaled in zip(indices, predictions.double().cpu().numpy(), strict=True):
            place = self.place(int(index))
            starts = self._draw_starts(place, self.generator(int(index)))[self.k_shot :]
            windows, level, scale = self._windows(place, starts)
            truth, forecast = windows[:, self.length :], scaled * scale + level
            error, size = np.abs(forecast - truth), np.abs(forecast) + np.abs(truth)
            with np.errstate(invalid="ignore"):  # of a model that diverged
                scores["smape"].append(200 * float((error / np.where(size == 0, 1.0, size)).mean()))
            naive = self._naive_errors(place)[starts + self.length - 1]
            scores["mase"].append(float((error.mean(1) / np.where(naive == 0, 1.0, naive)).mean()))
        return {name: predictions.new_tensor(values) for name, values in scores.items()}

    def _starts(self, gaps: np.ndarray, n: int) -> np.ndarray:
        """Return the first places of windows that cross no gap; gaps are after their places."""
        starts = np.arange(max(0, n - self.length - self.horizon + 1))
        before = np.searchsorted(gaps, starts)
        return starts[before == np.searchsorted(gaps, starts + self.length + self.horizon - 1)]

    def _cuts(self, starts: np.ndarray) -> range:
        """Return the starts that can be the first of the query windows."""
        if len(starts) < self.k_shot:
            return range(0)
        first = np.searchsorted(starts, starts[self.k_shot - 1] + self.length + self.horizon)
        step = self.horizon if self.queries == "last" else 1
        last = len(starts) - 1 - (self.n_query - 1) * step
        return range(last if self.queries == "last" and last >= first else first, last + 1)

    def _draw_starts(self, place: int, rng: np.random.Generator) -> np.ndarray:
        """Return the first places of the support windows, then of the query windows."""
        starts = self._series[place].starts
        cuts = self._cuts(starts)
        cut = cuts[int(rng.integers(len(cuts)))]
        n_before = np.searchsorted(starts, starts[cut] - self.length - self.horizon, side="right")
        support = rng.choice(starts[:n_before], self.k_shot, replace=False)
        if self.queries == "last":
            return np.concatenate([support, starts[cut :: self.horizon]])
        return np.concatenate([support, rng.choice(starts[cut:], self.n_query, replace=False)])

    def _windows(self, place: int, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return windows `(n, length + horizon)`, and the shift and scale of each, `(n, 1)`."""
        steps = np.arange(self.length + self.horizon)
        windows = self._series[place].values[starts[:, np.newaxis] + steps]
        if self.scale != "window":
            level, scale = (np.full((len(starts), 1), number) for number in self._level)
            return windows, level, scale
        level, scale = (f(windows[:, : self.length], axis=1, keepdims=True) for f in (np.mean, np.std))
        return windows, level, np.where(scale > _CONSTANT * np.abs(level), scale, 1.0)

    def _naive_errors(self, place: int) -> np.ndarray:
        """Return the mean error of the naive forecast over the values up to each."""
        values, season = self._series[place].values, self.season
        errors = np.abs(values[season:] - values[:-season])
        means = np.cumsum(errors) / np.arange(1, len(errors) + 1)
        return np.concatenate([np.zeros(min(season, len(values))), means])

    def _report_gaps(self, found: Mapping[str, Series]) -> None:
        span = self.length + self.horizon - 1
        possible = sum(max(0, len(one.values) - span) for one in found.values())
        left = sum(len(one.starts) for one in found.values())
        if possible - left > _MANY * possible:
            warnings.warn(
                f"{possible - left} of the {possible} windows of all series cross a gap in time, a step of "
                f"more than {_GAP} usual ones, and are left out; fill the gaps, or number the values.",
                stacklevel=3,
            )

    def _report_short(self, of_split: Sequence[str], enough: Mapping[str, Series]) -> None:
        few = [name for name in of_split if name not in enough]
        if not few:
            return
        least = 2 * (self.length + self.horizon) + self.k_shot - 1
        least += (self.n_query - 1) * (self.horizon if self.queries == "last" else 1)
        sizes = f"{self.k_shot} support and {self.n_query} later query windows, {least} values without gaps"
        if len(few) == len(of_split):
            raise MetaLensError(
                f"None of the {len(few)} series of the {self.split} split (such as {few[0]}) has enough "
                f"values for {sizes}; lower length, horizon, k_shot or n_query."
            )
        warnings.warn(
            f"{len(few)} of the {len(of_split)} series of the {self.split} split (such as {few[0]}) have too "
            f"few values for {sizes}, and are left out.",
            stacklevel=3,
        )


def read_series(
    data: Any, series: str, time: str, value: str, **form: Any
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the values of every series in the order of time, and the places before a gap.

    Args:
        data: see `SeriesTasks`.
        series: its columns.
        time: the same.
        value: the same.
        **form: of a file, see `read_table`.
    """
    if isinstance(data, np.ndarray | Tensor):
        data = dict(enumerate(as_array(data, "data")))
    if isinstance(data, Mapping):
        return {str(name): (_values(values, str(name)), np.arange(0)) for name, values in data.items()}
    return _read_table(data, series, time, value, form)


def _values(values: Any, name: str) -> np.ndarray:
    array = as_array(values, f"Series {name}")
    if array.ndim != 1 or array.dtype.kind not in "iufb":
        found = f"{array.dtype} of shape {array.shape}"
        raise MetaLensError(f"Series {name} must be numbers along one axis, got {found}.")
    check_finite(array, f"Series {name}: value")
    return array.astype(np.float64)


def _read_table(
    table: pd.DataFrame | str | os.PathLike[str],
    series: str,
    time: str,
    value: str,
    form: Mapping[str, Any],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    import pandas as pd  # takes as long to import as all of MetaLens

    check_names(series=series, time=time, value=value)
    with naming_file(table):
        frame = read_table(table, text=[series], levels=[series, time, value], **form)
        check_columns(frame, [series, time, value])
        given = table if isinstance(table, pd.DataFrame) and {time, value} <= {*table.columns} else frame
        return _by_series(frame, given, series, time, value)


def _by_series(
    table: pd.DataFrame, given: pd.DataFrame, series: str, time: str, value: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the values of the series of a table from `read_table`; `given` has the cells for messages."""
    import pandas as pd  # takes as long to import as all of MetaLens

    values = pd.to_numeric(table[value], errors="coerce").to_numpy(np.float64)
    clock = clock_of(table[time])
    wrong = {series: table[series].isna(), time: ~np.isfinite(clock), value: ~np.isfinite(values)}
    for name, bad in wrong.items():
        if bad.any():
            row = int(np.asarray(bad).argmax())
            needed = {series: "a name", time: "a number or date", value: "a finite number"}[name]
            raise MetaLensError(
                f"Row {row + 1} of column {name} must be {needed}, got {_cell(given, name, row)}; correct it "
                "or leave the row out."
            )
    names, series_of = np.unique(table[series].astype(str).to_numpy(str), return_inverse=True)
    order = np.lexsort((clock, series_of))
    parts = np.split(order, np.searchsorted(series_of[order], np.arange(1, len(names))))
    found = {}
    for name, rows in zip(names.tolist(), parts, strict=True):
        steps = np.diff(clock[rows])
        if (steps == 0).any():
            row = rows[1:][steps == 0][0]
            raise MetaLensError(
                f"Series {name} has two values at {time} {table[time].iloc[row]} (row {row + 1} is the "
                "second); leave one out, or name two series."
            )
        gaps = np.flatnonzero(steps > _GAP * np.median(steps)) if len(steps) else np.arange(0)
        found[name] = (values[rows], gaps)
    return found


def _cell(table: pd.DataFrame, name: str, row: int) -> str:
    return repr((table[name] if name in table else table.index.get_level_values(name)).tolist()[row])
