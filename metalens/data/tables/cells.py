"""One reading of the cells of a column, whatever its type in pandas: numbers, booleans, dates or words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from metalens.data.tables.places import where
from metalens.errors import MetaLensError

if TYPE_CHECKING:
    import pandas as pd

Content = Literal["numbers", "booleans", "dates", "spans", "words"]

MAX_NUMBER = 1e30  # in a cell: single precision ends at 3e38
EMPTY = ("", "nan", "NaN", "-nan", "-NaN", "NaT", "<NA>", "#N/A", "#NA")  # no ordinary words
MARKERS = ("NA", "N/A", "n/a", "None", "null", "NULL")  # empty among numbers, and else words

_TRUTH = {"true": True, "false": False}
_SIGN = "[-+\N{MINUS SIGN}]?"
_DIGITS = (
    r"(?:[0-9]{1,3}(?:[,.'\u2019 \u00a0\u202f][0-9]{3})+(?:[.,][0-9]+)?|[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)"
)
_POWER = "(?:[eE][-+]?[0-9]+)?"
_NUMBER_LIKE = re.compile(rf"[<>≤≥~≈=]{{0,2}}\s*[$€£¥]?\s*{_SIGN}{_DIGITS}{_POWER}\s*[%‰+]?")
_BOUND = re.compile(rf"[<>≤≥~≈]=?\s*{_SIGN}{_DIGITS}{_POWER}|{_SIGN}{_DIGITS}\s*\+")
_THOUSANDS = re.compile(rf"{_SIGN}[1-9][0-9]{{0,2}}(?:,[0-9]{{3}})+(?:\.[0-9]+)?")
_SPAN = re.compile(r"-?[0-9]+ days?(?: [-+]?[0-9]{1,2}:[0-9]{2}.*)?")
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")
_MONTH = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    "|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_CLOCK = r"(?:[T ]\s*[0-9]{1,2}:[0-9]{2}.*)?"
_DATE = re.compile(
    rf"(?:[0-9]{{4}}[-/.][0-9]{{1,2}}(?:[-/.][0-9]{{1,2}})?|[0-9]{{1,2}}[-/.][0-9]{{1,2}}[-/.][0-9]{{2,4}}"
    rf"|(?:[0-9]{{1,2}}[- /.]*)?{_MONTH}[- /.,]+[0-9]{{1,4}}(?:,? [0-9]{{4}})?"
    rf"|[0-9]{{4}}-?(?:Q[1-4]|W[0-9]{{1,2}}(?:-[0-9])?)){_CLOCK}|[0-9]{{1,2}}:[0-9]{{2}}(?::[0-9.]+)?",
    re.IGNORECASE,
)


def plain(column: pd.Series, *, decimal: str = ".", thousands: str | None = None) -> pd.Series:
    """Return a column as numbers, booleans, dates or words, by its cells and not by its type in pandas.

    Text is without blanks at its ends. It becomes numbers or booleans if all of its cells can be read so;
    `NA` and the like are then empty cells.

    Raises:
        MetaLensError: a cell holds a list or another object.

    >>> import pandas as pd
    >>> plain(pd.Series(["1", " 2.0", "NA"], dtype="category")).tolist()
    [1.0, 2.0, nan]
    >>> plain(pd.Series(["TRUE", "false "])).tolist(), plain(pd.Series(["a ", None])).tolist()
    ([True, False], ['a', None])
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biufmM":
        return column
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        return _real(column)
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return column
    codes, found = factorized(column)
    kind = pd.api.types.infer_dtype(found, skipna=True)
    if kind in ("integer", "floating", "mixed-integer-float", "decimal", "complex"):
        return _real(_of_cells(column, codes, found))
    if kind.startswith(("datetime", "timedelta")):
        return pd.Series(_of_cells(column, codes, found).infer_objects(), name=column.name)
    if kind in ("date", "period", "time"):
        return _of_cells(column, codes, found)
    if kind == "boolean":
        cells: Sequence[Any] = [bool(value) for value in found]
    else:
        cells = _read_text(found.tolist(), column, decimal, thousands)
    read = _of_cells(column, codes, cells)
    if any(isinstance(cell, str) for cell in cells):
        return read
    return read.astype(bool) if _is_bool(cells) and read.notna().all() else read.infer_objects()


def content(column: pd.Series) -> Content:
    """Return what most cells of a column from `plain` hold.

    >>> import pandas as pd
    >>> [content(pd.Series(cells)) for cells in (["red", "2"], ["1", "2,5", "?"], ["2024-01-31"], [">5"])]
    ['words', 'numbers', 'dates', 'numbers']
    """
    if column.dtype.kind in "biufmM":
        of_types: dict[str, Content] = {"b": "booleans", "m": "spans", "M": "dates"}
        return of_types.get(column.dtype.kind, "numbers")
    cells = column.dropna()
    if cells.empty:
        return "numbers"
    counts = cells.value_counts()
    if not any(isinstance(cell, str) for cell in counts.index):
        return "booleans" if all(isinstance(cell, bool) for cell in counts.index) else "dates"
    kinds: dict[Content, re.Pattern[str]] = {"dates": _DATE, "spans": _SPAN, "numbers": _NUMBER_LIKE}
    for kind, pattern in kinds.items():
        if 2 * _matching(counts, pattern) > len(cells):
            return kind
    return "words"


def numbers(column: pd.Series) -> np.ndarray:
    """Return a column as numbers, `(n,)`; missing ones are nan.

    Raises:
        MetaLensError: a cell is not a number within 1e30; rows are counted from 1, below the header.

    >>> import pandas as pd
    >>> numbers(pd.Series(["1", None, "x", "4"], name="dose"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: Row 3 of column dose must be a number, got 'x'; correct it ...
    """
    import pandas as pd  # takes as long to import as all of MetaLens

    column = plain(column)
    kind = content(column)
    if kind in ("dates", "spans"):
        what, instead = ("dates", "days since a start") if kind == "dates" else ("time spans", "hours")
        cell = spell(column.dropna().iloc[0], column)
        raise MetaLensError(
            f"Column {column.name} holds {what}, such as {cell}; give numbers, such as {instead}, leave it "
            "out of inputs, or name it in categorical."
        )
    found = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = (np.isnan(found) & column.notna().to_numpy()) | (np.abs(found) > MAX_NUMBER)
    if wrong.any():
        row = int(wrong.argmax())
        value, cell = found[row], str(column.iloc[row])
        large = "a finite number" if np.isinf(value) else f"a number from {-MAX_NUMBER:g} to {MAX_NUMBER:g}"
        what = "a number" if np.isnan(value) else large
        remedy = _remedy(cell, column, int(wrong.sum()))
        raise MetaLensError(f"{where(column, row)} must be {what}, got {cell!r}; {remedy}.")
    return found


def is_bound(cell: Any) -> bool:
    """Return whether a cell is a bound of a number, as of a value that was censored.

    >>> [is_bound(cell) for cell in (">10000", "<= 0.5", "3+", "5", "A+")]
    [True, True, True, False, False]
    """
    return isinstance(cell, str) and _BOUND.fullmatch(cell.strip()) is not None


def names(column: pd.Series) -> pd.Series:
    """Return a column as words, for names and categories; missing ones are `None`.

    Equal values are the same word whatever their type: `1`, `1.0` and `"1.0"` are `"1"`.

    >>> import pandas as pd
    >>> names(pd.Series([1.0, np.nan])).tolist(), names(pd.Series(["007", " a "])).tolist()
    (['1', None], ['007', 'a'])
    """
    codes, found = factorized(column)
    words: list[str | None] = [spell(value, column) for value in found]
    return _of_cells(column, codes, [None if word in EMPTY else word for word in words])


def spell(value: Any, column: pd.Series) -> str:
    """Return a value as a word.

    Raises:
        MetaLensError: it is a list or another object.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, str):
        value = value.strip()
        return match[1] if (match := _WHOLE.fullmatch(value)) else value
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, float | np.floating) and np.isfinite(value) and value == int(value):
        return str(int(value))
    if isinstance(value, date):
        return value.isoformat().removesuffix("T00:00:00")
    if np.ndim(value) or isinstance(value, dict | set | complex):
        what = type(value).__name__
        raise MetaLensError(f"Column {column.name} holds a {what} in a cell; give numbers or words.")
    return str(value)


def value_of(word: str) -> float | None:
    """Return the number that a word writes, 1 and 0 for truth values, or `None` if it writes none.

    >>> value_of("1.50"), value_of("TRUE"), value_of("1_000")
    (1.5, 1.0, None)
    """
    if (truth := _TRUTH.get(word.lower())) is not None:
        return float(truth)
    number = _number(word)
    return number if isinstance(number, float) and np.isfinite(number) else None


class Vocabulary:
    """Words of a training table, which other tables may spell otherwise: as `1.0`, `True` or of another type.

    A cell is the word that is equal to it, or else the only one with its value.

    >>> import pandas as pd
    >>> Vocabulary(["1", "2", "x"]).codes(pd.Series([2.0, 1.0, 3.0, np.nan])).tolist()
    [1, 0, -1, -1]
    >>> Vocabulary(["FALSE", "TRUE", "unknown"]).codes(pd.Series([True, False])).tolist()
    [1, 0]
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._exact = {word: code for code, word in enumerate(words)}
        self._by_value: dict[float, int] = {}
        for code, word in enumerate(words):
            if (value := value_of(word)) is not None:
                self._by_value[value] = -1 if value in self._by_value else code

    def codes(self, column: pd.Series) -> np.ndarray:
        """Return the number of the word of each cell, `(n,)`; -1 for unknown and missing ones."""
        places, found = factorized(names(column))
        codes = np.array([*map(self._code, found), -1], dtype=np.int64)
        return codes[places]

    def _code(self, word: str) -> int:
        if (code := self._exact.get(word)) is not None:
            return code
        value = value_of(word)
        return -1 if value is None else self._by_value.get(value, -1)


def distinct(column: pd.Series) -> tuple[str, ...]:
    """Return the different words of a column, sorted; of several spellings of a truth value the first.

    >>> import pandas as pd
    >>> distinct(pd.Series(["b", "TRUE", "true", "b "]))
    ('TRUE', 'b')
    """
    words = sorted(set(names(column).dropna()))
    first = {word.lower(): word for word in reversed(words) if word.lower() in _TRUTH}
    return tuple(word for word in words if first.get(word.lower(), word) == word)


def factorized(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return codes of cells, `(n,)`, -1 for missing ones, and the different values, as objects."""
    import pandas as pd  # takes as long to import as all of MetaLens

    try:
        codes, found = pd.factorize(column)
    except TypeError as error:  # lists have no hash
        raise MetaLensError(
            f"Column {column.name} holds lists or other objects in its cells; give numbers or words."
        ) from error
    return codes, pd.Index(found).astype(object).to_numpy()


def _of_cells(column: pd.Series, codes: np.ndarray, values: Iterable[Any]) -> pd.Series:
    """Return the column with these values for its different ones."""
    import pandas as pd  # takes as long to import as all of MetaLens

    table = np.empty(len(column) + 1, dtype=object)
    values = list(values)
    table[: len(values)] = values
    table[-1] = None
    return pd.Series(table[codes], index=column.index, name=column.name, dtype=object)


def _real(column: pd.Series) -> pd.Series:
    """Return a column of numbers of any type as integers, or floats if some are missing."""
    import pandas as pd  # takes as long to import as all of MetaLens

    if pd.api.types.is_complex_dtype(column.dtype) or any(isinstance(cell, complex) for cell in column[:1]):
        raise MetaLensError(f"Column {column.name} holds complex numbers; give real ones.")
    if pd.api.types.is_integer_dtype(column.dtype) and column.notna().all():
        values = column.to_numpy(dtype=np.int64)
    else:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return pd.Series(values, index=column.index, name=column.name)


def _read_text(
    values: Sequence[Any], column: pd.Series, decimal: str, thousands: str | None
) -> Sequence[Any]:
    """Return values, some of them text, as booleans or numbers if they can be read so, or else as words.

    Empty ones are `None`. If most are like numbers, those that are none stay words.
    """
    words = [spell(value, column) for value in values]
    known = [word for word in words if word not in EMPTY]
    if known and all(word.lower() in _TRUTH for word in known):
        return [_TRUTH.get(word.lower()) for word in words]
    rest = [word for word in known if word not in MARKERS]
    likely = sum(_NUMBER_LIKE.fullmatch(word) is not None for word in rest)
    if not rest or 2 * likely <= len(rest):
        return [None if word in EMPTY else word for word in words]
    if decimal != "." or thousands:
        pairs = zip(values, words, strict=True)
        words = [_with_points(word, decimal, thousands) if isinstance(value, str) else word
                 for value, word in pairs]  # fmt: skip
    return [None if word in EMPTY + MARKERS else _number(word) for word in words]


def _number(word: str) -> float | str:
    """Return the number that a word writes, or the word if it writes none."""
    try:
        return word if "_" in word else float(word)
    except ValueError:
        return word


def _with_points(word: str, decimal: str, thousands: str | None) -> str:
    """Return a number as Python writes it; other words are quoted, so that they count as no number."""
    point, comma = re.escape(decimal), re.escape(thousands or "")
    groups = rf"[0-9]{{1,3}}(?:{comma}[0-9]{{3}})+|" if thousands else ""
    if re.fullmatch(rf"{_SIGN}(?:{groups}[0-9]*)(?:{point}[0-9]*)?{_POWER}", word):
        return (word.replace(thousands, "") if thousands else word).replace(decimal, ".")
    return word if isinstance(_number(word), str) else repr(word)


def _is_bool(cells: Sequence[Any]) -> bool:
    return len(cells) > 0 and all(isinstance(cell, bool) for cell in cells)


def _matching(counts: pd.Series, pattern: re.Pattern[str]) -> int:
    """Return how many cells match, of the numbers of cells with a text."""
    return sum(int(n) for text, n in counts.items() if pattern.fullmatch(str(text).strip()))


def _remedy(cell: str, column: pd.Series, n: int) -> str:
    """Return what to do about a cell that is no number, the first of n."""
    if is_bound(cell):
        return (
            f"this is a bound and no value, the first of {n}; leave such rows out, or write the bound itself "
            "if it may count as the value; an input may also be named in categorical"
        )
    commas = [text for text in column.dropna().astype(str).unique() if "," in text]
    if "," in cell and all(_THOUSANDS.fullmatch(text) for text in commas):
        return (
            "leave out the commas between thousands or give thousands=','; if they are decimal commas, give "
            "decimal=','"
        )
    if "," in cell:
        return "write numbers with a point, or give decimal=','"
    if cell.endswith(("%", "‰")) or cell.startswith(tuple("$€£¥")):
        return "leave out the unit, which belongs in the name of the column"
    return "correct it or leave the row out"
