"""From a table that somebody sends to predictions as plain values."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metalens.errors import MetaLensError
from metalens.estimators.models import most_probable
from metalens.estimators.tables import TableReader

if TYPE_CHECKING:
    import pandas as pd

_SENT = "table.csv"  # how errors call a table that was sent as text
_PLAIN = (str, int, float, bool, type(None))  # cells of JSON


def check_model(model: Any) -> None:
    """Raise a `MetaLensError` unless a model is of a long table, whose rows can be sent."""
    if not isinstance(model.reader_, TableReader):
        raise MetaLensError("A model of images cannot be served; use metalens predict.")
    if model.reader_.columns.wide:
        raise MetaLensError(
            "A model of a wide table cannot be served; make the table long, or use metalens predict."
        )


def frame_of_text(text: bytes, reader: TableReader) -> pd.DataFrame:
    """Return the rows of a table that was sent as text with separators."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _SENT
        path.write_bytes(text)
        try:
            return reader.rows(path)
        except MetaLensError as error:
            raise MetaLensError(str(error).replace(str(path), _SENT)) from None


def frame_of_rows(rows: Any, reader: TableReader) -> pd.DataFrame:
    """Return the rows of a table that was sent as a list of JSON objects, a key for each column."""
    import pandas as pd  # slow to import

    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise MetaLensError("rows must be a list of objects, one for each row with its columns as keys.")
    for number, row in enumerate(rows, 1):
        for name, cell in row.items():
            if not isinstance(cell, _PLAIN):
                raise MetaLensError(f"Row {number} of column {name} must hold a number or a text.")
    return reader.rows(pd.DataFrame(rows))


def answer(model: Any, frame: pd.DataFrame, coverage: float) -> dict[str, Any]:
    """Return predictions for the rows whose target is empty, adapted to those whose target is known.

    Args:
        model: an estimator that `check_model` accepts.
        frame: rows of one task, from `reader.rows`.
        coverage: of the intervals.

    Returns:
        `model`: what adapted; `target`; `n_support`; `known`, the support rows' numbers, from 1, and targets;
        `rows`: of each other row its number, `prediction` and, of numbers, `lower` and `upper`, or of classes
        `probabilities`; `note`: why there are no intervals.

    Raises:
        MetaLensError: the rows cannot be used.
    """
    target, task = model.reader_.columns.target, model.reader_.columns.task
    if task in frame and (n := frame[task].nunique()) > 1:
        raise MetaLensError(f"The table has rows of {n} tasks by its column {task}; send those of one.")
    is_known = frame[target].notna().to_numpy() if target in frame else np.zeros(len(frame), dtype=bool)
    if is_known.all():
        raise MetaLensError(
            f"Column {target} is known in all rows; leave it empty where it is to be predicted."
        )
    known, asked = frame[is_known], frame[~is_known]
    adapted = model.adapt(known if len(known) else None)
    numbers = (np.flatnonzero(~is_known) + 1).tolist()
    found, note = _predicted(adapted, asked.drop(columns=[target], errors="ignore"), coverage)
    targets = known[target].tolist() if len(known) else []
    return {
        "model": adapted.model,
        "target": target,
        "n_support": adapted.n_support,
        "known": [
            {"row": number, "target": _plain(value)}
            for number, value in zip((np.flatnonzero(is_known) + 1).tolist(), targets, strict=True)
        ],
        "rows": [{"row": number, **cells} for number, cells in zip(numbers, found, strict=True)],
        "note": note,
    }


def _predicted(adapted: Any, rows: pd.DataFrame, coverage: float) -> tuple[list[dict[str, Any]], str | None]:
    """Return what is predicted for each row, and why there are no intervals."""
    if hasattr(adapted, "classes_"):
        names = [str(label) for label in adapted.classes_]
        chances = adapted.predict_proba(rows)
        best = most_probable(np.array(names), chances).tolist()
        return [
            {"prediction": name, "probabilities": _probabilities(names, row)}
            for name, row in zip(best, chances, strict=True)
        ], None
    columns, note = {"prediction": adapted.predict(rows)}, None
    try:
        columns["lower"], columns["upper"] = adapted.predict_interval(rows, coverage).T
    except MetaLensError as error:
        note = str(error)
    cells = zip(*columns.values(), strict=True)
    return [{name: _plain(value) for name, value in zip(columns, row, strict=True)} for row in cells], note


def _probabilities(names: Sequence[str], chances: np.ndarray) -> Mapping[str, float | None]:
    return {name: _plain(chance) for name, chance in zip(names, chances, strict=True)}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; what is not finite is `None`.

    >>> _plain(np.float64("nan")), _plain(np.int64(3)), _plain("red")
    (None, 3, 'red')
    """
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
