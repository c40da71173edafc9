"""The report of a trained estimator, from the files in its folder."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from metalens.errors import MetaLensError
from metalens.io.files import atomic_path, writing_into
from metalens.io.json import read_json
from metalens.metrics import METRICS, meanings, primary_metric
from metalens.relations.clusters import RelationMap, relation_map
from metalens.reports import figures
from metalens.reports.numbers import metric_title, number, unit
from metalens.reports.reading import naming_damage
from metalens.reports.relation_map import relation_figure, relations_summary
from metalens.reports.run_report import figures_folder, save_figure, template
from metalens.reports.sentences import difference_in_words
from metalens.reports.tables import results_table, table_rows
from metalens.statistics.comparisons import paired_differences, summarize

TRAINING = "training.json"  # how the model of a folder was trained
MIN_TASKS = 20  # held-out tasks, below which the order of models is a guess
N_SHOWN = 5  # best and worst tasks


@dataclass(frozen=True)
class TrainedModel:
    """The content of the folder of a trained model.

    Attributes:
        training: how it was trained: `title`, `command`, `commands` to use it, `chosen`, `k_shot`,
            `configuration`, `versions` and so on.
        comparison: rows `model, task, metric, value` on held-out tasks, the meta-learner first.
        curve: rows `model, seed, step, split, metric, value`.
        relations: of held-out tasks, or the reason why there are none.
    """

    training: dict[str, Any]
    comparison: pd.DataFrame
    curve: pd.DataFrame
    relations: RelationMap | str


def _of_arms(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of models in the columns of a run, a model being an arm."""
    return rows.rename(columns={"model": "learner"}).assign(regularizers="none", sampler="Uniform")


def _results(comparison: pd.DataFrame) -> pd.DataFrame:
    return _of_arms(comparison).assign(seed=0)


def read_model_folder(folder: Path) -> TrainedModel:
    """Read the folder of a trained model.

    Raises:
        MetaLensError: a file is missing or damaged.
    """
    training = read_json(folder / TRAINING, "train the model again")
    path = folder / "comparison.csv"
    try:
        comparison = pd.read_csv(path, dtype=dict.fromkeys(("model", "task", "metric"), str),
                                 keep_default_na=False, na_values={"value": ["", "nan"]})  # fmt: skip
        if comparison[["model", "task", "metric", "value"]].empty:
            raise ValueError("it has no rows")
        if unknown := set(comparison["metric"]) - METRICS.keys():
            raise ValueError(f"it has unknown metrics: {', '.join(sorted(unknown))}")
        path = folder / "curve.csv"
        curve = pd.read_csv(path)
        path = folder / "relations.csv"
        relations = training["no_relations"]
        if relations is None:
            table = pd.read_csv(path, dtype={"task": str}, keep_default_na=False)
            relations = relation_map(table.iloc[:, 2:].to_numpy(float), table["task"].tolist())
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise MetaLensError(f"{path} is missing or damaged ({error}); train the model again.") from error
    return TrainedModel(training, comparison, curve, relations)


def write_model_report(folder: str | Path) -> Path:
    """Write `report.html`, `figures/*.svg` and `figures/*.png` from the files of a trained model.

    The same files give the same report, byte for byte.

    Args:
        folder: of `metalens train`.

    Returns:
        The path of `report.html`, which needs no other file and no network.

    Raises:
        MetaLensError: a file is missing or damaged, or the folder is not writable.
    """
    folder = Path(folder)
    model = read_model_folder(folder)
    report = folder / "report.html"
    with writing_into(folder):
        drawn = figures_folder(folder)
        with naming_damage(folder, "train the model"):
            images = {name: save_figure(figure, drawn / name) for name, figure in _figures(model).items()}
            page = _render(model, images)
        with atomic_path(report) as path:
            path.write_text(page, encoding="utf-8")
    return report


def models_table(comparison: pd.DataFrame) -> Table:
    """Return the means of models and their paired differences as a table for a terminal of 80 columns.

    Args:
        comparison: rows `model, task, metric, value` on new tasks, the meta-learner first.

    >>> table = pd.DataFrame({"model": ["ANIL", "Ridge"], "task": "a", "metric": "r2", "value": [0.5, 0.0]})
    >>> models_table(table).caption.plain
    "On 1 new task; 95% intervals over tasks in brackets; differences to ANIL. r2 is the share ..."
    """
    n, models = comparison["task"].nunique(), comparison["model"].unique()
    caption = f"On {n} new task{'' if n == 1 else 's'}; 95% intervals over tasks in brackets"
    caption += "." if len(models) == 1 else f"; differences to {models[0]}."
    return results_table(_results(comparison), arms="model", caption=caption)


def choice_in_words(comparison: pd.DataFrame, chosen: str) -> list[str]:
    """Return sentences on which model adapts to new tasks and why.

    Args:
        comparison: rows `model, task, metric, value` on held-out tasks, the meta-learner first.
        chosen: name of the model that adapts.

    >>> rows = [(model, task, "mse", error + task / 9) for task in range(3)
    ...         for model, error in (("ANIL", 0.5), ("MeanPredictor", 2.0), ("Ridge", 0.25))]
    >>> comparison = pd.DataFrame(rows, columns=["model", "task", "metric", "value"])
    >>> choice_in_words(comparison, "Ridge")[0]
    'Ridge adapts to new tasks, a baseline: on 3 held-out tasks the meta-learner ANIL does not beat it
    (mean mse 0.61 against 0.36).'
    """
    results = _results(comparison)
    summary, paired = summarize(results), paired_differences(results)
    metric, n = primary_metric(summary["metric"]), comparison["task"].nunique()
    means = summary[summary["metric"] == metric].set_index("learner")["mean"]
    texts = {row["arm"]: f"{row['mean']}{unit(metric)}" for row in table_rows(summary, paired, metric)}
    meta, losses = str(means.index[0]), -means if METRICS[metric].better == "higher" else means
    tasks = f"{n} held-out task{'' if n == 1 else 's'}"
    if len(means) == 1:
        return [f"{meta} adapts to new tasks: on {tasks} its mean {metric} is {texts[meta]}."]
    losses = losses.fillna(math.inf)
    best = str(losses.iloc[1:].idxmin())
    first = f"{chosen} adapts to new tasks"
    if losses[meta] <= losses[best]:
        first = f"{meta} adapts to new tasks: on {tasks} its mean {metric} is {texts[meta]}, against "
        first += f"{texts[best]} of {best}, the best baseline."
    elif chosen == meta:
        first += f", as was asked for, but the baseline {best} is better on {tasks} (mean {metric} "
        first += f"{texts[best]} against {texts[meta]})."
    else:
        first += f", a baseline: on {tasks} the meta-learner {meta} does not beat it (mean {metric} "
        first += f"{texts[meta]} against {texts[chosen]})."
    few = [f"With only {tasks}, another division may give another order."] if n < MIN_TASKS else []
    difference = paired[(paired["learner"] == best) & (paired["metric"] == metric)].iloc[0]
    return [first, difference_in_words(difference, metric), *few]


def _figures(model: TrainedModel) -> dict[str, Any]:
    results = _results(model.comparison)
    paired = paired_differences(results)
    drawn = {"tasks": figures.per_task(results)}
    if not paired.empty:
        drawn["differences"] = figures.differences(paired)
    if not model.curve.empty:
        drawn["learning-curves"] = figures.learning_curves(_of_arms(model.curve))
    if isinstance(model.relations, RelationMap):
        drawn["relations"] = relation_figure(model.relations, "Held-out tasks")
    return drawn


def _render(model: TrainedModel, images: dict[str, str]) -> str:
    results, training = _results(model.comparison), model.training
    summary, paired = summarize(results), paired_differences(results)
    metrics = summary["metric"].unique()
    columns, rows, note = best_and_worst(model.comparison, training["chosen"])
    relations = model.relations
    shown = relations_summary(relations) if isinstance(relations, RelationMap) else [relations]
    return template(Path(__file__).parent / "model.html.j2").render(
        training=training,
        choice=choice_in_words(model.comparison, training["chosen"]),
        baseline=results["learner"].iloc[0],
        scores={metric_title(metric): table_rows(summary, paired, metric) for metric in metrics},
        meanings=meanings(metrics),
        diverged=bool((summary["diverged"] > 0).any()),
        task_columns=columns,
        task_rows=rows,
        task_note=note,
        relations=[part for part in shown if isinstance(part, str)],
        images=images,
    )


def best_and_worst(
    comparison: pd.DataFrame, chosen: str
) -> tuple[list[str], list[tuple[str, list[str]]], str]:
    """Return the best and worst tasks of a model, with the scores of the other models.

    Args:
        comparison: rows `model, task, metric, value`.
        chosen: the model.

    Returns:
        Names of columns; rows of a task's name and its cells, the best first; and a note.

    >>> table = pd.DataFrame({"model": "ANIL", "task": ["a", "b"], "metric": "mse", "value": [2.0, 1.0]})
    >>> best_and_worst(table, "ANIL")
    (['ANIL'], [('b', ['1']), ('a', ['2'])], 'All 2 tasks by their mse.')
    """
    metric = primary_metric(comparison["metric"])
    rows = comparison[comparison["metric"] == metric]
    cells: dict[str, Any] = {"index": "task", "columns": "model", "values": "value", "aggfunc": "first"}
    table = rows.pivot_table(**cells, sort=False, dropna=False)
    table = table[[chosen, *(name for name in table.columns if name != chosen)]]
    table = table.sort_values(chosen, ascending=METRICS[metric].better == "lower", kind="stable")
    n = len(table)
    shown = f"The {N_SHOWN} best and the {N_SHOWN} worst of {n}" if n > 2 * N_SHOWN else f"All {n}"
    if n > 2 * N_SHOWN:
        table = pd.concat([table.iloc[:N_SHOWN], table.iloc[-N_SHOWN:]])
    shown_rows = [(str(row.name), [_cell(value, metric) for value in row]) for _, row in table.iterrows()]
    return [str(name) for name in table.columns], shown_rows, f"{shown} tasks by their {metric}."


def _cell(value: float, metric: str) -> str:
    if not math.isfinite(value):
        return number(value, 0)
    return f"{value:.1%}" if METRICS[metric].unit == "fraction" else f"{value:.3g}".replace("-", "−")
