"""The times of series as numbers: which spellings of dates are read, and which days are no gaps."""

from __future__ import annotations

import warnings
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from metalens.data.tables.cells import content, factorized, names
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

_DAY_FIRST, _MONTH_FIRST = ("%d/%m/%Y", "%m/%d/%Y"), ("%d/%m/%y", "%m/%d/%y")
_DAYS = (
    *_DAY_FIRST, *_MONTH_FIRST, "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d.%m.%y", "%d-%m-%Y", "%d-%b-%Y",
    "%d-%b-%y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y",
)  # fmt: skip
_MONTHS = ("%b-%y", "%b-%Y", "%b %y", "%b %Y", "%B %Y", "%B-%Y", "%m/%Y", "%Y/%m", "%Y.%m", "%Y %b")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_FORMATS = ("ISO8601", *_MONTHS, *(day + clock for day, clock in product(_DAYS, _CLOCKS)))
_MIN_DAYS = 10  # without a weekend, to tell that there are none


def clock_of(column: pd.Series) -> np.ndarray:
    """Return times as numbers, `(n,)`, equally spaced where the calendar is; nan where a cell is no time.

    Numbers are themselves, except whole ones such as 201302 and 20130228, which are months and days. Days
    that are all from Monday to Friday count without the days on which no series has a value.

    Args:
        column: numbers or dates, of any type, as `read_table` returns them.

    Raises:
        MetaLensError: day and month cannot be told apart.

    >>> import pandas as pd
    >>> np.diff(clock_of(pd.Series(["Jan 2013", "Feb 2013", "Mar 2013"]))).tolist()
    [31.0, 28.0]
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    if content(column) == "numbers":
        values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        dates = _dates_of_numbers(values)
        return values if dates is None else dates
    if column.dtype.kind == "m":
        return column.dt.total_seconds().to_numpy(np.float64)
    return _business_days(_in_days(_dates(column)))


def _dates_of_numbers(values: np.ndarray) -> np.ndarray | None:
    """Return numbers such as 201302 or 20130228 in days; `None` for others."""
    import pandas as pd  # takes as long to import as all of MetaLens

    if not np.isfinite(values).all() or (values % 1 != 0).any():
        return None
    whole = values.astype(np.int64)
    for form, low, high, unit in (("%Y%m", 190001, 210012, 100), ("%Y%m%d", 19000101, 21001231, 100)):
        if low <= whole.min() and whole.max() <= high and len(np.unique(whole // unit)) > 1:
            dates = pd.to_datetime(pd.Series(whole.astype(str)), format=form, errors="coerce")
            if dates.notna().all():
                return _business_days(_in_days(dates))
    return None


def _dates(column: pd.Series) -> pd.Series:
    """Return dates of any type, or as text, in UTC."""
    import pandas as pd  # takes as long to import as all of MetaLens

    if column.dtype.kind == "M" or isinstance(column.dtype, pd.DatetimeTZDtype):
        return pd.to_datetime(column, utc=True)
    codes, found = factorized(names(column))
    texts = pd.Series(found, dtype=object)
    iso = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=True)
    if iso.notna().all():
        return pd.Series([*iso, pd.NaT]).iloc[codes].set_axis(column.index)
    best, chosen = pd.Series(pd.NaT, index=texts.index, dtype="datetime64[ns, UTC]"), ""
    read = {form: _quarters_and_weeks(texts) if form == "" else pd.to_datetime(
        texts, format=form, errors="coerce", utc=True) for form in ("", *_FORMATS)}  # fmt: skip
    for form, dates in read.items():
        if dates.notna().sum() > best.notna().sum():
            best, chosen = dates, form
    _refuse_ambiguous(column, read, chosen)
    if "%y" in chosen and len(texts):
        warnings.warn(
            f"Times of column {column.name} such as {texts.iloc[0]!r} are read as {best.iloc[0]:%Y-%m-%d}; "
            "write years with four digits if they are others.",
            stacklevel=6,
        )
    return pd.Series([*best, pd.NaT]).iloc[codes].set_axis(column.index)


def _quarters_and_weeks(texts: pd.Series) -> pd.Series:
    """Return dates of texts such as 2013Q1 and 2013-W05, and none of others."""
    import pandas as pd  # takes as long to import as all of MetaLens

    quarter = texts.astype(str).str.extract(r"^([0-9]{4})[- ]?Q([1-4])$")
    months = quarter[0] + "-" + (3 * quarter[1].astype(float) - 2).map("{:.0f}".format, na_action="ignore")
    week = texts.astype(str).str.extract(r"^([0-9]{4})-?W([0-9]{1,2})$")
    weeks = pd.to_datetime(week[0] + "-" + week[1] + "-1", format="%G-%V-%u", errors="coerce", utc=True)
    return pd.to_datetime(months, format="%Y-%m", errors="coerce", utc=True).fillna(weeks)


def _refuse_ambiguous(column: pd.Series, read: dict[str, pd.Series], chosen: str) -> None:
    """Refuse dates of which the day may as well be the month."""
    for first, second in (_DAY_FIRST, _MONTH_FIRST):
        if chosen.startswith(first):
            other = read[chosen.replace(first, second)]
            if other.notna().sum() == read[chosen].notna().sum() and (other != read[chosen]).any():
                raise MetaLensError(
                    f"Column {column.name} has dates such as {column.dropna().iloc[-1]!r}, of which the day "
                    "may as well be the month; write them as 2013-12-31."
                )


def _in_days(times: pd.Series) -> np.ndarray:
    """Return dates as days since a Monday, `(n,)`; nan for missing ones."""
    import pandas as pd  # takes as long to import as all of MetaLens

    monday = pd.Timestamp("1900-01-01", tz=times.dt.tz)
    return ((times - monday) / pd.Timedelta(days=1)).to_numpy(np.float64)


def _business_days(days: np.ndarray) -> np.ndarray:
    """Return days since a Monday without those on which there are no values, as numbers from 0.

    They are unchanged if a value is on a weekend, or if days are not the usual step.

    >>> _business_days(np.array([0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 14.0]))[-2:].tolist()
    [9.0, 10.0]
    """
    known = np.unique(days[~np.isnan(days)])
    is_daily = (
        len(known) >= _MIN_DAYS and np.median(np.diff(known)) == 1 and (known % 1 == known[0] % 1).all()
    )
    if not is_daily or (np.floor(known) % 7 > 4).any():
        return days
    return np.where(np.isnan(days), np.nan, np.searchsorted(known, days).astype(float))
