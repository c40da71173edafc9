"""The report of a trained estimator, from the files in its folder."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markdown_it import MarkdownIt
from rich.table import Table

from metalens.errors import MetaLensError
from metalens.estimators.card import CARD, REPORTED
from metalens.estimators.choice import STACKED, Choice, best_single
from metalens.estimators.saving import (
    read_facts,
    read_left_out,
    read_model,
    read_n_folds,
    read_pooled,
    restored_choices,
)
from metalens.estimators.time_limit import left_out_in_words
from metalens.estimators.wording import MIN_TASKS, by_support_rows, known_half_width, shown, weights_in_words
from metalens.io.files import MODEL, atomic_path, writing_into
from metalens.io.json import read_json
from metalens.metrics import METRICS, meanings, primary_metric
from metalens.relations.clusters import RelationMap, relation_map
from metalens.reports import figures
from metalens.reports.prediction_figures import (
    MAX_INPUTS,
    MAX_TASKS,
    input_importance,
    predicted_against_true,
    reliability,
    residuals,
    score_by_support_rows,
)
from metalens.reports.reading import naming_damage
from metalens.reports.relation_map import relation_figure, relations_summary
from metalens.reports.run_report import figures_folder, save_figure, template
from metalens.reports.sentences import difference_in_words
from metalens.reports.tables import results_of_models, results_table, table_rows
from metalens.statistics.comparisons import paired_differences, summarize
from metalens.statistics.numbers import metric_title, number

TRAINING = "training.json"  # how the model of a folder was trained
N_SHOWN = 5  # best and worst tasks


@dataclass(frozen=True)
class TrainedModel:
    """The content of the folder of a trained model.

    Attributes:
        training: how it was trained: `title`, `command`, `commands` to use it, `chosen`, `k_shot`,
            `probability_of`, `configuration`, `versions` and so on.
        comparison: rows `model, task, metric, value` on held-out tasks, the meta-learner first.
        curve: rows `model, seed, step, split, metric, value`.
        choices: what adapts to new tasks, by the number of support rows.
        relations: of held-out tasks, or the reason why there are none.
        left_out: what the fit left out to keep to its time limit, and how.
        n_folds: in which each task was held out once; 0 without folds.
        pooled: scores of all rows of held-out tasks together, `model, metric, value`; none of classes.
        predictions: for the queries of held-out tasks, `task, true, predicted`; for classes probabilities.
        importance: of inputs for held-out tasks, `model, task, input, value`, or why there is none.
        card: of the model, as Markdown; empty where it was deleted.
    """

    training: dict[str, Any]
    choices: dict[int, Choice]
    comparison: pd.DataFrame
    curve: pd.DataFrame
    relations: RelationMap | str
    left_out: dict[str, str]
    n_folds: int
    pooled: pd.DataFrame
    predictions: pd.DataFrame
    importance: pd.DataFrame | str
    card: str


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
        path = folder / MODEL
        facts = read_facts(folder)
        choices, left_out = restored_choices(read_model(folder, str(facts["kind"]))), read_left_out(facts)
        pooled, n_folds = read_pooled(facts), read_n_folds(facts)
        path = folder / "predictions.csv"
        predictions = pd.read_csv(path, dtype={"task": str, "true": float, "predicted": float},
                                  keep_default_na=False, na_values={"predicted": ["", "nan"]})  # fmt: skip
        if predictions[["task", "true", "predicted"]].empty:
            raise ValueError("it has no rows")
        path = folder / "curve.csv"
        curve = pd.read_csv(path)
        path = folder / "importance.csv"
        importance = training["no_importance"]
        if importance is None:
            importance = pd.read_csv(path, dtype={"task": str, "input": str, "value": float},
                                     keep_default_na=False, na_values={"value": [""]})  # fmt: skip
            importance[["task", "input", "value"]]  # are there
        path = folder / "relations.csv"
        relations = training["no_relations"]
        if relations is None:
            table = pd.read_csv(path, dtype={"task": str}, keep_default_na=False)
            relations = relation_map(table.iloc[:, 2:].to_numpy(float), table["task"].tolist())
        path = folder / CARD
        card = path.read_text(encoding="utf-8") if path.exists() else ""
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise MetaLensError(f"{path} is missing or damaged ({error}); train the model again.") from error
    return TrainedModel(
        training,
        choices,
        comparison,
        curve,
        relations,
        left_out,
        n_folds,
        pooled,
        predictions,
        importance,
        card,
    )


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


def choice_in_words(choice: Choice, comparison: pd.DataFrame, n_folds: int = 0) -> list[str]:
    """Return sentences on what adapts to new tasks and why.

    Args:
        choice: for the usual number of support rows.
        comparison: rows `model, task, metric, value` on the test tasks, the meta-learner first.
        n_folds: in which each task was held out once; 0 without folds.

    >>> means = {"ANIL": 0.4, "MeanPredictor": -0.1, "Ridge": 0.5}
    >>> choice = Choice("Ridge", "r2", {"Ridge": 1.0}, means, 0.45, 40, [])
    >>> rows = [(name, task, "r2", mean + task / 9) for task in range(3) for name, mean in means.items()]
    >>> comparison = pd.DataFrame(rows, columns=["model", "task", "metric", "value"])
    >>> choice_in_words(choice, comparison)[0]
    'Ridge adapts to new tasks, a baseline: on 40 held-out tasks the meta-learner ANIL does not beat it
    (mean r2 0.400 against 0.500).'
    """
    metric = choice.metric
    means = {name: shown(mean, metric) for name, mean in choice.means.items()}
    tasks = f"{choice.n_tasks} held-out task{'' if choice.n_tasks == 1 else 's'}"
    meta, model = next(iter(means)), choice.model
    folds = []
    if n_folds:
        folds = [f"Each task was held out once, in {n_folds} folds; what adapts was trained on all "
                 f"{comparison['task'].nunique()} tasks."]  # fmt: skip
    best = best_single(choice._replace(means={n: mean for n, mean in choice.means.items() if n != meta}))
    if len(means) == 1:
        return [f"{meta} adapts to new tasks: on {tasks} its mean {metric} is {means[meta]}.", *folds]
    against = f"{means[best]} of {best}, the best baseline"
    if model == STACKED:
        first = f"A weighted mean of models adapts to new tasks: {weights_in_words(choice.weights)}."
        first += f" On {tasks}, each without a say in the weights, its mean {metric} is {means[model]}, "
        first += f"against {means[meta]} of {meta}, the meta-learner, and {against}."
    elif model != meta:
        first = f"{model} adapts to new tasks, a baseline: on {tasks} the meta-learner {meta} does not beat "
        first += f"it (mean {metric} {means[meta]} against {means[model]})."
    else:
        first = (
            f"{meta} adapts to new tasks: on {tasks} its mean {metric} is {means[meta]}, against {against}."
        )
    nested = f"Chosen anew without each task in turn, what adapts to it has the mean {metric} "
    nested += f"{shown(choice.score, metric)}: what to expect of further tasks."
    few = []
    if choice.n_tasks < MIN_TASKS:
        few = [f"With only {tasks}, another division may give another order."]
    other = best if model == meta else model
    paired = paired_differences(results_of_models(comparison))
    of_other = paired[(paired["learner"] == other) & (paired["metric"] == metric)]
    differences = [difference_in_words(row, metric) for _, row in of_other.iterrows()]
    return [first, nested, *folds, *differences, *few]


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
    return results_table(results_of_models(comparison), arms="model", caption=caption)


def _figures(model: TrainedModel) -> dict[str, Any]:
    results = results_of_models(model.comparison)
    paired = paired_differences(results)
    drawn = {"tasks": figures.per_task(results)}
    if not paired.empty:
        drawn["differences"] = figures.differences(paired)
    if len(model.choices) > 1:
        rows = [(k, one.score, known_half_width(one)) for k, one in sorted(model.choices.items())]
        expected = pd.DataFrame(rows, columns=["k_shot", "score", "half_width"])
        drawn["support-rows"] = score_by_support_rows(expected, next(iter(model.choices.values())).metric)
    if not model.curve.empty:
        drawn["learning-curves"] = figures.learning_curves(results_of_models(model.curve))
    if (what := model.training["probability_of"]) is not None:
        drawn["reliability"] = reliability(model.predictions, what)
    elif np.isfinite(model.predictions["predicted"]).any():
        drawn["predicted"] = predicted_against_true(model.predictions)
        drawn["residuals"] = residuals(model.predictions)
    if isinstance(model.importance, pd.DataFrame) and model.importance["value"].notna().any():
        metric = model.choices[model.training["k_shot"]].metric
        drawn["importance"] = input_importance(model.importance, metric)
    if isinstance(model.relations, RelationMap):
        drawn["relations"] = relation_figure(
            model.relations, "All tasks" if model.n_folds else "Held-out tasks"
        )
    return drawn


def _render(model: TrainedModel, images: dict[str, str]) -> str:
    results, training = results_of_models(model.comparison), model.training
    summary, paired = summarize(results), paired_differences(results)
    metrics = summary["metric"].unique()
    decisive = model.choices[training["k_shot"]].metric
    columns, rows, note = best_and_worst(model.comparison, training["chosen"])
    relations = model.relations
    shown = relations_summary(relations) if isinstance(relations, RelationMap) else [relations]
    return template(Path(__file__).parent / "model.html.j2").render(
        training=training,
        choice=choice_in_words(model.choices[training["k_shot"]], model.comparison, model.n_folds),
        n_folds=model.n_folds,
        left_out=left_out_in_words(model.left_out) if model.left_out else "",
        by_support_rows=by_support_rows(model.choices) if len(model.choices) > 1 else [],
        decisive=decisive,
        baseline=results["learner"].iloc[0],
        scores={metric_title(metric): table_rows(summary, paired, metric) for metric in metrics},
        meanings=meanings(metrics),
        diverged=bool((summary["diverged"] > 0).any()),
        task_columns=columns,
        task_rows=rows,
        task_note=note,
        pooled=pooled_rows(model.pooled, model.comparison),
        n_rows=len(model.predictions),
        n_tasks=model.predictions["task"].nunique(),
        max_tasks=MAX_TASKS,
        max_inputs=MAX_INPUTS,
        importance=importance_in_words(model.importance),
        relations=[part for part in shown if isinstance(part, str)],
        images=images,
        card=card_as_html(model.card),
    )


def card_as_html(card: str) -> str:
    """Return the sections of a card that a report has not got by itself, as HTML without tags from the card.

    >>> card_as_html("# Card\\n\\n## Scores\\n\\n1\\n\\n## Limits\\n\\n- `<b>` is an input.\\n")
    '<h3>Limits</h3>\\n<ul>\\n<li><code>&lt;b&gt;</code> is an input.</li>\\n</ul>\\n'
    """
    sections = [part for part in card.split("\n## ")[1:] if part.partition("\n")[0] in REPORTED]
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    return reader.render("".join(f"\n### {part}\n" for part in sections))


def pooled_rows(pooled: pd.DataFrame, comparison: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Return the scores of all rows together beside the means over tasks, as text.

    Returns:
        Rows of a model and its `r2` and `rmse` of all rows, and the means over tasks of the same.

    >>> rows = [("Ridge", "r2", 0.9), ("Ridge", "rmse", 2.0)]
    >>> pooled = pd.DataFrame(rows, columns=["model", "metric", "value"])
    >>> pooled_rows(pooled, pooled.assign(task="a", value=[0.25, 1.5]))
    [('Ridge', ['0.900', '2.00', '0.250', '1.50'])]
    """
    means = comparison.groupby(["model", "metric"])["value"].mean()
    rows = []
    for model, of_model in pooled.groupby("model", sort=False):
        values = dict(zip(of_model["metric"], of_model["value"], strict=True))
        cells = [_cell(values[name], name) for name in ("r2", "rmse")]
        over_tasks = (means.get((model, name), math.nan) for name in ("r2", "rmse"))
        rows.append(
            (str(model), cells + [_cell(v, n) for n, v in zip(("r2", "rmse"), over_tasks, strict=True)])
        )
    return rows


def importance_in_words(importance: pd.DataFrame | str) -> str:
    """Return which inputs have no importance within tasks, or why there is none at all.

    >>> table = pd.DataFrame({"input": ["age", "sex", "sex"], "value": [0.5, math.nan, math.nan]})
    >>> importance_in_words(table)
    'Not shown, as they have one value in all queries of a task: sex.'
    """
    if isinstance(importance, str):
        return importance
    varies = importance.groupby("input", sort=False)["value"].apply(lambda values: values.notna().any())
    if varies.all():
        return ""
    return f"Not shown, as they have one value in all queries of a task: {', '.join(varies.index[~varies])}."


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
    (['ANIL'], [('b', ['1.00']), ('a', ['2.00'])], 'All 2 tasks by their mse.')
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
    return (
        f"{value:.1%}"
        if METRICS[metric].unit == "fraction"
        else f"{value:#.3g}".rstrip(".").replace("-", "−")
    )
