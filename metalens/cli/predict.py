"""`metalens predict`: predictions for rows or images of new tasks, from a few labeled ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ActionYesNo, ArgumentParser, Namespace

from metalens.cli.progress import say
from metalens.errors import MetaLensError
from metalens.io.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd

    from metalens.estimators.tables import TableReader


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = (
        "Adapt a trained model to a new task by its support, and predict the query. Both may hold several "
        "tasks where they have the column that names them: each is predicted by its own support."
    )
    # fmt: off
    add = parser.add_argument
    add("--model", type=str, required=True, help="Folder that `metalens train` has written.")
    add("--support", type=str | None, default=None,
        help="Table with known targets, or class folders of images (directory or zip); without it, rows of a "
        "table are predicted by what all tasks share.")
    add("--query", type=str, required=True, help="Table or images to predict.")
    add("--out", type=str, default="predictions.csv", help="Table (CSV) to write.")
    add("--overwrite", action=ActionYesNo, default=False, help="Replace an existing table.")
    add("--coverage", type=float, default=0.9,
        help="Share of targets that shall lie between the columns lower and upper.")
    # fmt: on


def execute(settings: Namespace, words: list[str]) -> None:
    """Predict, and write the table."""
    out = Path(settings.out)
    if out.resolve() in [Path(path).resolve() for path in (settings.support, settings.query) if path]:
        raise MetaLensError(f"{out} is the support or the query; choose another --out.")
    check_out(settings.out, overwrite=settings.overwrite)
    if not 0 < settings.coverage < 1:
        raise MetaLensError(f"--coverage must be between 0 and 1, got {settings.coverage}.")
    from metalens.estimators import load_model  # slow to import
    from metalens.estimators.tables import TableReader

    model = load_model(settings.model)
    predict = _predict_table if isinstance(model.reader_, TableReader) else _predict_images
    table, models = predict(model, settings.support, settings.query, settings.coverage)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as path:
        table.to_csv(path, index=False, float_format="%.6g")
    tasks = "1 task" if len(models) == 1 else f"{len(models)} tasks"
    by = ", ".join(dict.fromkeys(models))
    say(f"{len(table)} rows of {tasks}, predicted by {by}.", wrap=True)
    say(f"Predictions: {out.resolve()}")


def check_out(out: str, *, overwrite: bool) -> None:
    """Raise a `MetaLensError` if `out` is not named as a CSV file, or exists and must not be overwritten."""
    if Path(out).suffix != ".csv":
        raise MetaLensError(f"--out must be the path of a table, ending in .csv, got {out}.")
    if Path(out).exists() and not overwrite:
        raise MetaLensError(f"{out} exists already; choose another --out, or pass --overwrite.")


def _predict_images(
    model: Any, support: str | None, query: str, coverage: float
) -> tuple[pd.DataFrame, list[str]]:
    """Return the table of predictions, and the names of the models of all tasks."""
    import pandas as pd  # slow to import

    paths = [file.path for file in model.reader_.files(query)]
    adapted = model.adapt(support)
    found, _ = _predictions(adapted, query, coverage)
    return pd.concat([pd.DataFrame({"image": paths}), pd.DataFrame(found)], axis=1), [adapted.model]


def _predict_table(
    model: Any, support: str | None, query: str, coverage: float
) -> tuple[pd.DataFrame, list[str]]:
    """Return the table of predictions, and the names of the models of all tasks."""
    import pandas as pd  # slow to import

    from metalens.data.tables.reading import rows_as_written

    reader: TableReader = model.reader_
    asked, wide = reader.rows(query), bool(reader.columns.wide)
    known = asked[:0] if support is None else reader.read(support)
    checks = [] if support is None else [(support, reader.support_rows, known)]
    for path, check, frame in [*checks, (query, reader.inputs, asked)]:
        try:  # on whole files, so that errors and notes name their rows
            check(frame)
        except MetaLensError as error:
            raise MetaLensError(f"{path}: {error}") from error
    parts, reasons, models, copies = [], [], [], 0
    for name, few, new in _tasks(known, asked, reader, support, query):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said of the whole files
                adapted = model.adapt(few)
                found, reason = _predictions(adapted, new, coverage)
        except MetaLensError as error:
            place = f"Task {name} of {support}: " if name else f"{support}: " if support else ""
            raise MetaLensError(f"{place}{error}") from error
        models.append(adapted.model)
        prefix = f"{name}: " if wide and name else ""
        parts.append(pd.DataFrame(found, index=new.index).add_prefix(prefix))
        copies += _copies(few, new, reader.input_names)
        reasons += [] if reason is None else [reason]
    if reasons:
        warnings.warn(f"{len(reasons)} of {len(parts)} tasks have no intervals: {reasons[0]}", stacklevel=2)
    if copies:
        warnings.warn(
            f"{copies} of the {sum(map(len, parts))} query rows have the inputs of a support row; their "
            "predictions say little about new rows.",
            stacklevel=2,
        )
    predicted = pd.concat(parts, axis=1) if wide else pd.concat(parts).loc[asked.index]
    rows = rows_as_written(query, reader.columns.sep, reader.columns.encoding)
    if taken := [name for name in predicted.columns if name in rows.columns]:
        raise MetaLensError(f"{query} has a column {taken[0]} already; rename it.")
    return pd.concat([rows, predicted], axis=1), models


def _tasks(
    known: pd.DataFrame, asked: pd.DataFrame, reader: TableReader, support: str | None, query: str
) -> Iterator[tuple[str, pd.DataFrame | None, pd.DataFrame]]:
    """Yield the name of each task if the support says it, its support rows and its query rows.

    Of a wide table, all query rows are asked of all tasks in the support.
    """
    task = reader.columns.task
    if support is None:
        yield "", None, asked
    elif reader.columns.wide:
        for name, few in known.groupby(known[task].astype(str)):
            yield str(name), few, asked
    else:
        yield from _by_task(known, asked, task, support, query)


def _by_task(
    known: pd.DataFrame, asked: pd.DataFrame, task: str | None, support: str, query: str
) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Yield the name of each task, its support rows and its query rows."""
    if task not in known.columns or (task not in asked.columns and known[task].nunique() == 1):
        if task in asked.columns and asked[task].nunique() > 1:
            raise MetaLensError(
                f"{query} has rows of several tasks by its column {task}, which {support} lacks; add it."
            )
        yield "", known, asked
        return
    if task not in asked.columns:
        raise MetaLensError(
            f"{support} has rows of {known[task].nunique()} tasks by its column {task}; add it to {query}, "
            "to say which row is of which."
        )
    for path, frame in ((support, known), (query, asked)):
        if frame[task].isna().any():
            row = int(frame[task].isna().to_numpy().argmax()) + 1
            raise MetaLensError(f"Row {row} of column {task} of {path} is empty; fill it, or delete the row.")
    supports = dict(tuple(known.groupby(known[task].astype(str), sort=False)))
    queries = dict(tuple(asked.groupby(asked[task].astype(str), sort=False)))
    if alone := [name for name in queries if name not in supports]:
        more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
        raise MetaLensError(
            f"{support} has no rows of {', '.join(alone[:3])}{more}, which {query} asks for; add some with "
            "known targets."
        )
    for name, rows in queries.items():
        yield name, supports[name], rows


def _predictions(adapted: Any, data: Any, coverage: float) -> tuple[dict[str, Any], str | None]:
    """Return the columns of predictions by name, and the reason if numbers have no intervals."""
    if hasattr(adapted, "classes_"):
        from metalens.estimators.models import most_probable

        chances = adapted.predict_proba(data)
        names = [f"probability of {label}" for label in adapted.classes_]
        best = most_probable(adapted.classes_, chances)
        return {"prediction": best, **dict(zip(names, chances.T, strict=True))}, None
    found = {"prediction": adapted.predict(data)}
    try:
        lower, upper = adapted.predict_interval(data, coverage).T
    except MetaLensError as error:
        return found, str(error)
    return {**found, "lower": lower, "upper": upper}, None


def _copies(few: pd.DataFrame | None, new: pd.DataFrame, names: Sequence[str]) -> int:
    """Return how many query rows have the inputs of a support row of their task."""
    import pandas as pd  # slow to import

    if few is None:
        return 0
    own, asked = (pd.MultiIndex.from_frame(frame[list(names)].astype(str)) for frame in (few, new))
    return int(asked.isin(own).sum())
