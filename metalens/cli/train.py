"""`metalens train`: meta-learn from your own tasks, and report."""

from __future__ import annotations

import json
import shlex
import time
import warnings
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ActionYesNo, ArgumentParser, Namespace

from metalens.cli.progress import say
from metalens.cli.report import show_model
from metalens.errors import MetaLensError
from metalens.io.files import new_folder
from metalens.training.progress import StepBar, progress_bars

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from metalens.estimators import MetaClassifier, MetaRegressor
    from metalens.estimators.training import ProgressOf

    Estimator = MetaRegressor | MetaClassifier

# Options with several words.
_LISTS = {"wide", "inputs", "categorical", "exclude", "regularizers", "baselines"}
_MAX_SHOWN = 60  # tasks in the relation map of the report, as many as it has names for, and for importance


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the settings of the command to its parser."""
    parser.description = (
        "Train a model on many small tasks, and compare it on held-out tasks with baselines. The best of "
        "them then adapts to new tasks by `metalens predict`. Of images, --group is a regular expression on "
        "their paths."
    )
    from metalens.data.tables.columns import Columns  # slow to import
    from metalens.estimators.settings import EstimatorSettings

    # fmt: off
    add = parser.add_argument
    add("--data", type=str, required=True,
        help="Table (CSV, Parquet, arrays in an .npz file), or images in class folders (directory or zip).")
    add("--target", type=str | None, default=None, help="Column to predict: numbers, or words for classes.")
    add("--out", type=str, default="model", help="Folder for the model and its report.")
    add("--overwrite", action=ActionYesNo, default=False, help="Replace the model in the folder.")
    add("--kind", type=Literal["auto", "regression", "classification"], default="auto",
        help="What to predict; by default words, truth values and two whole numbers, such as 0 and 1, are "
        "classes, and other numbers are not.")
    parser.add_class_arguments(Columns, skip={"target", *_LISTS})
    add("--wide", type=str, nargs="*",
        help="For a table with a column for each task and empty cells: the columns of tasks; without names "
        "all columns that have no other role. Instead of --task and --target.")
    add("--inputs", type=str, nargs="*", help="Columns to predict from; by default all others.")
    add("--categorical", type=str, nargs="*", default=[],
        help="Those among them whose numbers are names of categories.")
    add("--exclude", type=str, nargs="*", default=[],
        help="Columns that are no inputs, such as identifiers of rows; for tables without --inputs.")
    add("--splits", type=str, nargs="*",
        help="Shares of tasks to train on, validate on and hold out, such as 0.7 0.15 0.15; or a column that "
        "says train, val or test.")
    add("--split_seed", type=int | None, default=None, help="Selects another division by shares.")
    add("--families", type=str | None, default=None,
        help="Column with the family of a task, such as the study of an assay: tasks of one family are all "
        "trained on or all held out.")
    add("--time_limit", type=float | None, default=None,
        help="Seconds that training and comparison may take, about: trainings end early with the best "
        "weights so far, and slow models are left out, with a note.")
    add("--new_classes", action=ActionYesNo, default=False,
        help="Whether new tasks of a table bring classes of their own, as those of images do.")
    add("--n_way", type=int | None, default=None, help="Classes of a training task, where classes are new.")
    add("--image_size", type=int, default=32, help="Height and width of images in pixels.")
    add("--color", action=ActionYesNo, default=True, help="Whether images are in color.")
    add("--folders", type=Literal["domain/class", "class/group"] | None, default=None,
        help="What two levels of folders of images are; a group is a patient or the like.")
    add("--white", type=float | None, default=None,
        help="Value of white in images of more than 8 bits, such as 4095 for 12.")
    add("--backbone", type=str | None, default=None,
        help="Model of timm for images in place of Conv4, such as resnet18.")
    add("--weights", type=str | None, default=None,
        help="File of its pretrained weights, whose normalization statistics are kept.")
    parser.add_class_arguments(EstimatorSettings, skip={"hidden", "fallback", *_LISTS})
    add("--regularizers", type=str, nargs="*", default=[], help="For example 'TRLearner(weight=0.1)'.")
    add("--baselines", type=str, nargs="*",
        help="Models to compare with, for example Ridge 'KNN(n_neighbors=3)'; by default the usual ones.")
    add("--fallback", action=ActionYesNo, default=True, help="Use the best baseline if it wins.")
    # fmt: on


def execute(settings: Namespace, words: list[str]) -> None:
    """Train, compare, write the model and its report, and show the results."""
    out, data = Path(settings.out), Path(settings.data).expanduser()
    started, clock = datetime.now(UTC), time.perf_counter()
    if not data.exists():
        raise MetaLensError(f"There is no file or folder {data}; correct --data.")
    with new_folder(out, overwrite=settings.overwrite) as folder, progress_bars() as progress:
        from metalens.estimators import FallbackWarning
        from metalens.estimators.report import TRAINING, write_model_report
        from metalens.experiments.experiment import versions  # slow to import, so under the progress bar

        train = _train_on_table if _is_table(settings) else _train_on_images
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)  # the table of results says so
            bar, steps = StepBar(progress), settings.steps
            model, rows = train(settings, data, lambda name: bar.start(f"training {name}", steps))
        model.write_into(folder)
        relations, importance = _relations(model, rows), _importance(model, rows)
        model.predictions_.to_csv(folder / "predictions.csv", index=False, float_format="%.7g")
        for name, table in (("relations", relations), ("importance", importance)):
            if not isinstance(table, str):
                table.to_csv(folder / f"{name}.csv", index=False)
        facts = {
            "metalens": version("metalens"),
            "title": _title(settings, data),
            "command": shlex.join(["metalens", *words]),
            "commands": _commands(out, settings, data),
            "chosen": model.chosen_,
            "k_shot": model.k_shot_,
            "probability_of": getattr(model, "probability_of_", None),
            "no_relations": relations if isinstance(relations, str) else None,
            "no_importance": importance if isinstance(importance, str) else None,
            "configuration": {"data": settings.data, "time_limit": settings.time_limit, **_columns(settings)}
            | model.get_params(),
            "versions": versions(),
            "started": started.isoformat(timespec="seconds"),
            "seconds": time.perf_counter() - clock,
        }
        (folder / TRAINING).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        write_model_report(folder)
    show_model(out)
    say(f"Next: {facts['commands'][0]}")


def _train_on_images(settings: Namespace, data: Path, progress: ProgressOf) -> tuple[Estimator, None]:
    if data.is_file() and data.suffix != ".zip":
        needed = "--target must name the column to predict, and --task that of the tasks"
        raise MetaLensError(f"{data} is a table, so {needed}.")
    from metalens.data.tables.columns import Columns
    from metalens.estimators import MetaClassifier

    given = _columns(settings)
    given |= {name: settings[name] for name in ("split_seed", "families")}
    usual = vars(Columns(target="-", group=given["group"])) | dict.fromkeys(
        ("target", "split_seed", "families")
    )
    if stray := [f"--{name}" for name, value in given.items() if (value or None) != (usual[name] or None)]:
        raise MetaLensError(f"Images need no {', '.join(stray)}; leave it out, or give --target for a table.")
    model = MetaClassifier(**_training(settings, MetaClassifier))
    options = {name: settings[name] for name in ("group", "image_size", "color", "folders", "white")}
    options["time_limit"] = settings.time_limit
    model.fit(data, splits=_splits(settings.splits), progress=progress, **options)
    return model, None


def _train_on_table(
    settings: Namespace, data: Path, progress: ProgressOf
) -> tuple[Estimator, pd.DataFrame | None]:
    from metalens.data.tables.columns import Columns
    from metalens.data.tables.reading import check_columns, naming_file
    from metalens.data.tables.targets import kind_of_target

    if settings.backbone is not None or settings.weights is not None:
        raise MetaLensError("--backbone and --weights are for images; leave them out for a table.")
    columns = _columns(settings)
    roles, splits = Columns(**columns), _splits(settings.splits)
    roles.refuse_for_wide([name for name in (settings.families, splits) if isinstance(name, str)])
    with naming_file(data):
        frame = roles.read(data)
        check_columns(frame, [roles.target])
        kind = kind_of_target(frame[roles.target], settings.kind)
        return _fitted(settings, kind == "classification", frame, columns, progress)


def _fitted(
    settings: Namespace, classes: bool, frame: pd.DataFrame, columns: dict[str, Any], progress: ProgressOf
) -> tuple[Estimator, pd.DataFrame | None]:
    from metalens.data.tables.columns import Columns
    from metalens.estimators import MetaClassifier, MetaRegressor  # slow to import

    how: dict[str, Any] = {name: settings[name] for name in ("split_seed", "families", "time_limit")}
    how |= {} if settings.splits is None else {"splits": _splits(settings.splits)}
    if classes:
        model = MetaClassifier(**_training(settings, MetaClassifier))
        model.fit(frame, new_classes=settings.new_classes, progress=progress, **columns, **how)
    else:
        if settings.task is None and not columns["wide"]:
            raise MetaLensError(
                "Numbers are predicted by task; give --task, the column that names them, or --wide for a "
                "table with a column for each task."
            )
        model = MetaRegressor(**_training(settings, MetaRegressor))
        model.fit(frame, progress=progress, **columns, **how)
    return model, _held_out(model, frame, None if settings.new_classes else Columns(**columns).task)


def _columns(settings: Namespace) -> dict[str, Any]:
    from metalens.data.tables.columns import Columns

    given = {field.name: settings[field.name] for field in fields(Columns)}
    wide = settings.wide is not None and (settings.wide or True)
    return given | {"target": settings.target or "", "wide": wide}


def _is_table(settings: Namespace) -> bool:
    return settings.target is not None or settings.wide is not None


def _training(settings: Namespace, estimator: type[Estimator]) -> dict[str, Any]:
    return {name: settings[name] for name in signature(estimator).parameters if name in settings}


def _held_out(model: Estimator, frame: pd.DataFrame, task: str | None) -> pd.DataFrame | None:
    """Return the rows of some held-out tasks; none if tasks are drawn from classes."""
    names = model.comparison_["task"].unique()[:_MAX_SHOWN]
    rows = None if task is None else frame[frame[task].astype(str).isin(names)]
    return None if rows is None or len(rows) == 0 else rows


def _relations(model: Estimator, rows: pd.DataFrame | None) -> pd.DataFrame | str:
    """Return the relations between held-out tasks, or the reason for their absence."""
    from metalens.relations.clusters import relations_as_table

    if rows is None:
        return "Tasks with new classes are drawn again each time, and have no names to be related by."
    return _quietly(lambda: relations_as_table(model.relations(rows)))


def _importance(model: Estimator, rows: pd.DataFrame | None) -> pd.DataFrame | str:
    """Return the importance of inputs for held-out tasks, or the reason for its absence."""
    if rows is None:
        return "The importance of inputs is measured for tasks of a table that have names."
    return _quietly(lambda: model.permutation_importance(rows))


def _quietly(found: Callable[[], pd.DataFrame]) -> pd.DataFrame | str:
    """Return what a function finds, or the sentence of its error; training has given its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return found()
    except MetaLensError as error:
        return str(error)


def _splits(words: list[str] | None) -> str | list[float] | None:
    """Return the column or the shares of `--splits`."""
    if words is None or len(words) == 1:
        return None if words is None else words[0]
    try:
        return [float(word) for word in words]
    except ValueError:
        raise MetaLensError(
            f"--splits must be a column, or three shares such as 0.7 0.15 0.15, got {' '.join(words)}."
        ) from None


def _title(settings: Namespace, data: Path) -> str:
    if settings.target is None:
        return f"{'Columns' if _is_table(settings) else 'Classes'} of {data.stem}"
    return settings.target if settings.task is None else f"{settings.target} by {settings.task}"


def _commands(out: Path, settings: Namespace, data: Path) -> list[str]:
    """Return the commands that use a model on data in the format of the training data."""
    ending = data.suffix if data.suffix in (".npz", ".parquet") else ".csv"
    ending = ending if _is_table(settings) else ""
    model = shlex.quote(str(out))
    return [
        f"metalens predict --model {model} --support few{ending} --query new{ending} --out predictions.csv",
        f"metalens evaluate --model {model} --data other{ending}",
        f"metalens relations {model} --data other{ending}",
    ]
