"""The page of the benchmark, from cached results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from tools.tables import results
from tools.tables.compare import MEASURES, by_task, comparable, is_outside, leads
from tools.tables.ours import DEFAULT
from tools.tables.problems import PROBLEMS, Problem
from tools.tables.protocol import COVERAGE, LEAST_QUERY, N_FOLDS
from tools.tables.results import Selection

INTRODUCTION = f"""# Benchmark: a few rows of a new group

How well are the rows of a group predicted of which only a few are known? MetaLens as a user calls it, with
its defaults, beside what people would use in its place. `make bench-tables` writes this page; do not edit it.

**Protocol.** The tasks (groups) of a table are divided into {N_FOLDS} folds by hashes of their names. The
tasks of one fold are held out, and all methods are trained on the others. Of each held-out task k rows are
known, drawn at random or, of a table named *ordered*, the earliest; all methods adapt to the same rows, and
predict the same other rows, at least {LEAST_QUERY}. Nothing was chosen by held-out tasks. Numbers are means
over all held-out tasks, each a mean over its draws:

- **skill**, of numbers: the share of the variance of the task that is explained,
  `max(1 - mse / variance, -1)`. 1 is perfect, and 0 no better than the task's mean;
- **log loss**, of classes, in nats: lower is better.

A **lead** is how much MetaLens' default is better than a method on the same tasks, with its 95 % interval; it
is negative where MetaLens is behind. **Bold** leads differ from 0 by p-values that are corrected for the
number of methods (Holm), and *ahead* and *behind* mean these alone. What is fitted to training tasks and
known rows together (mixed models, GPBoost) was fitted to the known rows of all held-out tasks of a fold at
once, and the time of that counts as prediction. Intervals are over tasks, for the models of these
trainings."""

NONE = "–"  # noqa: RUF001

METHODS = """## The methods

| method | what it is |
|---|---|
| MetaLens | `MetaRegressor()` or `MetaClassifier()`, trained once per fold (ordered tables: with `order=`), and `adapt(rows)`; the models that it chose from, by themselves, are named after a colon |
| task mean, ridge, GP; share, logistic | models of the known rows alone (scikit-learn): `RidgeCV`, `LogisticRegression`, Gaussian processes with a squared exponential kernel or, for molecules, Tanimoto's |
| MixedLM; mixed logistic | statsmodels: all inputs as fixed effects (without constants and sums of others), a random intercept and, with a slope, one on the column most correlated with the target within tasks; `BinomialBayesMixedGLM` for classes |
| LightGBM, CatBoost | one model of all tasks, which does not know the task; the number of rounds is chosen on a fifth of the training tasks |
| + shrunken mean | the mean residual of the known rows, times a shrinkage by the variances between and within tasks; for classes an offset of the log odds with a normal prior |
| + residual GP | a Gaussian process on the residuals of the known rows, its parameters learned from the residuals of the training tasks |
| GPBoost | trees and a random intercept of every task, trained together; the number of rounds is chosen on a fifth of the rows |"""  # noqa: E501


def page(selection: Selection, folder: Path, facts: dict[str, str], date: str, command: str) -> str:
    """Return the page.

    Args:
        selection: what it is about.
        folder: of the cached results.
        facts: from `metadata` of tools.speed: processor, cores, versions, commit.
        date: of the page.
        command: that wrote it.
    """
    scores, costs = results.scores(selection, folder), results.costs(selection, folder)
    compared = comparisons(scores)
    parts = [INTRODUCTION, "", *origin(selection, folder, costs, facts, date, command), ""]
    parts += ["## At a glance", "", *summary(compared), "", *standing(compared), *without_result(scores), ""]
    parts += ["## Intervals", "", *coverage(scores), ""]
    for table in dict.fromkeys(scores["table"]):
        of_table = (frame[frame["table"] == table] for frame in (scores, costs, compared))
        parts += [f"## {table}", "", *section(PROBLEMS[table], *of_table), ""]
    parts += ["## What failed", "", *failed(selection, folder), "", METHODS]
    return "\n".join(parts) + "\n"


def comparisons(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the leads over all outside methods: those of `leads`, with `table, k, n_tasks, own, other`."""
    frames = []
    for (table, k), rows in scores.groupby(["table", "k"], sort=False):
        measure = MEASURES[PROBLEMS[str(table)].kind]
        of_task = by_task(rows, measure.column)
        shared = comparable(of_task)
        found, means = leads(shared, measure), shared.mean()
        facts = {"table": table, "k": k, "n_tasks": len(shared), "own": means.get(DEFAULT, math.nan)}
        frames.append(found.assign(**facts, other=found["method"].map(means)))
    columns = ["method", "lead", "low", "high", "verdict", "table", "k", "n_tasks", "own", "other"]
    found = [frame for frame in frames if len(frame)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def origin(
    selection: Selection, folder: Path, costs: pd.DataFrame, facts: dict[str, str], date: str, command: str
) -> list[str]:
    """Return the paragraph that says where the numbers come from."""
    found = [cell.read(folder) for cell in results.cells(selection)]
    commits = sorted({str(of["commit"]) for of in found if of is not None and of["commit"]})
    missing = sum(not results.is_done(of, selection, retry=False) for of in found)
    fit = costs.drop_duplicates(["table", "fold", "family"], keep="last")["fit"].sum()
    lines = [
        f"Written on {date} by `{command}`, from {count(len(selection.folds), 'fold')} of {N_FOLDS} and "
        f"{count(selection.draws, 'draw')} of known rows, at commit {', '.join(commits)}, on "
        f"{facts['processor']}, one core for each method. {facts['versions']}. Folds are by `hashed_order` "
        "with seed 0, rows by the hash of table, task and draw; all methods have the random state 0. "
        f"Training took {fit / 3600:.2g} hours of a core.",
    ]
    if missing:
        lines.append("")
        lines.append(f"**Not run yet, or not for all k: {missing} of {len(found)} trainings.**")
    return lines


def summary(compared: pd.DataFrame) -> list[str]:
    """Return a row for each table and k: the default, the best outside method, and the lead over it."""
    lines = [
        "| table | k | tasks | MetaLens | best outside method | lead | MetaLens is |",
        "|---|--:|--:|--:|---|--:|---|",
    ]
    for (table, k), rows in compared.groupby(["table", "k"], sort=False):
        best = rows.iloc[0]
        lines.append(
            f"| {table} | {k} | {best['n_tasks']} | {number(best['own'])} | {best['method']} "
            f"{number(best['other'])} | {interval(best)} | {overall(rows)} |"
        )
    return lines


def overall(rows: pd.DataFrame) -> str:
    """Return where the default stands among the outside methods of a table and k."""
    behind, ahead = ((rows["verdict"] == verdict).sum() for verdict in ("behind", "ahead"))
    if behind:
        return f"**behind {behind}**, ahead of {ahead} of {len(rows)}"
    return "ahead of all" if ahead == len(rows) else f"ahead of {ahead} of {len(rows)}"


def standing(compared: pd.DataFrame) -> list[str]:
    """Say in sentences how often the default is ahead of all, and where it is behind."""
    cases = compared.groupby(["table", "k"], sort=False)
    ahead = sum((rows["verdict"] == "ahead").all() for _, rows in cases)
    behind = compared[compared["verdict"] == "behind"]
    n_behind = behind.groupby(["table", "k"]).ngroups
    lines = [
        f"Of {count(cases.ngroups, 'case')} (a table and a k) MetaLens is ahead of all outside methods in "
        f"{ahead}, and behind at least one in {n_behind}" + (":" if n_behind else "."),
        "",
    ]
    for (table, k), rows in behind.groupby(["table", "k"], sort=False):
        names = "; ".join(f"{row['method']} ({interval(row)})" for _, row in rows.iterrows())
        lines.append(f"- {table}, k = {k}: behind {names}.")
    return lines


def without_result(scores: pd.DataFrame) -> list[str]:
    """Say for which tasks that others predicted the default has no result; they are in no comparison."""
    lines = []
    for (table, k), rows in scores.groupby(["table", "k"], sort=False):
        n, own = (of["task"].nunique() for of in (rows, rows[rows["method"] == DEFAULT]))
        if own < n:
            lines.append(
                f"- {table}, k = {k}: **MetaLens has no result for {n - own} of {count(n, 'task')}**."
            )
    return lines


def coverage(scores: pd.DataFrame) -> list[str]:
    """Return the shares of rows within the default's intervals, by table and k."""
    own = scores[scores["method"] == DEFAULT]
    if "inside" not in own or own["inside"].isna().all():
        return ["None was measured."]
    of_task = own.groupby(["table", "k", "task"], sort=False)["inside"].mean().dropna()
    groups, shots = of_task.groupby(level=["table", "k"], sort=False), sorted(own["k"].unique())
    texts = {
        key: f"{percent(rows.mean())} ± {percent(1.96 * rows.sem())} ({percent(rows.quantile(0.1))})"
        for key, rows in groups
    }
    tables = list(dict.fromkeys(own["table"]))
    return [
        f"Percent of the rows of a new task within MetaLens' {percent(COVERAGE)} % intervals: mean over "
        "tasks, with its 95 % interval; in brackets, what a tenth of the tasks do not reach.",
        "",
        *matrix("inside", tables, shots, lambda table, k: texts.get((table, k), NONE)),
    ]


def percent(share: float) -> str:
    """Return a share in percent, without the sign."""
    return f"{100 * share:.0f}"


def section(problem: Problem, scores: pd.DataFrame, costs: pd.DataFrame, compared: pd.DataFrame) -> list[str]:
    """Return the tables about one table."""
    measure = MEASURES[problem.kind]
    shots = sorted(scores["k"].unique())
    methods = sorted(dict.fromkeys(scores["method"]), key=order)
    means = {k: by_task(scores[scores["k"] == k], measure.column) for k in shots}
    tasks = ", ".join(f"{len(comparable(means[k]))} with k = {k}" for k in shots)
    complete = {k: comparable(of_task).mean() for k, of_task in means.items()}
    title = measure.column.replace("_", " ")
    lines = [f"{problem.about[0].upper()}{problem.about[1:]}. Held-out tasks: {tasks}.", ""]
    lines += matrix(title, methods, shots, lambda m, k: number(complete[k].get(m)))
    found = {(row["method"], row["k"]): interval(row) for _, row in compared.iterrows()}
    outside = [method for method in methods if is_outside(method)]
    lines += ["", *matrix("lead of MetaLens over", outside, shots, lambda m, k: found.get((m, k), NONE))]
    for name, value in further(problem, scores).items():
        lines += ["", *matrix(name, methods, shots, lambda m, k, v=value: number(v.get((m, k))))]
    return [*lines, "", *cost_table(methods, costs), "", *notes(costs)]


def further(problem: Problem, scores: pd.DataFrame) -> dict[str, dict[tuple[str, int], float]]:
    """Return the other scores by name, method and k: over all rows of all tasks, or means over tasks."""
    groups = scores.groupby(["method", "k"])
    if problem.kind == "class":
        return {name.replace("_", " "): groups[name].mean().to_dict() for name in ("accuracy", "roc_auc")}
    total = groups.apply(lambda rows: math.sqrt((rows["mse"] * rows["n"]).sum() / rows["n"].sum()))
    return {"rmse over all rows": total.to_dict()}


def cost_table(methods: Sequence[str], costs: pd.DataFrame) -> list[str]:
    """Return what each method needs, the mean over folds."""
    lines = ["| needs | fit, s | predict, ms per task | peak MiB of the process |", "|---|--:|--:|--:|"]
    means = costs.groupby("method")[["fit", "predict", "peak_mib"]].mean()
    for method in methods:
        fit, predict, peak = means.loc[method]
        lines.append(f"| {method} | {fit:.1f} | {1e3 * predict:.1f} | {peak:.0f} |")
    return lines


def notes(costs: pd.DataFrame) -> list[str]:
    """Return what training found in the first fold."""
    fold = costs["fold"].min()
    first = costs[(costs["fold"] == fold) & (costs["note"] != "")]
    found = [f"- {row['method']}: {row['note']}" for _, row in first.iterrows()]
    return [f"Training found in fold {fold}:", "", *found] if found else []


def failed(selection: Selection, folder: Path) -> list[str]:
    """Return every failure with its reason."""
    lines = []
    for cell in results.cells(selection):
        found = cell.read(folder)
        for reason in results.failures(found) if found else []:
            lines.append(f"- {cell.table}, fold {cell.fold}, {cell.family}: `{reason}`")
    return lines or ["Nothing."]


def matrix(
    title: str, rows: Sequence[str], columns: Sequence[int], value: Callable[[str, int], str]
) -> list[str]:
    """Return a table of methods and numbers of known rows."""
    lines = [
        f"| {title} | " + " | ".join(f"k = {k}" for k in columns) + " |",
        "|---|" + "--:|" * len(columns),
    ]
    return lines + [f"| {row} | " + " | ".join(value(row, k) for k in columns) + " |" for row in rows]


def order(method: str) -> int:
    """Return the place of a method: the default, the outside methods, the models of MetaLens."""
    return 0 if method == DEFAULT else 1 if is_outside(method) else 2


def interval(row: pd.Series) -> str:
    """Return a lead with its interval, bold if it is significant."""
    text = f"{signed(row['lead'])} [{signed(row['low'])}, {signed(row['high'])}]"
    return f"**{text}**" if row["verdict"] in ("ahead", "behind") else text


def signed(value: float) -> str:
    """Return a number with its sign."""
    return f"{value:+.3f}".replace("-", "−")


def number(value: float | None) -> str:
    """Return a number in few digits, or a dash."""
    if value is None or math.isnan(value):
        return NONE
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 0
    return f"{value:.{digits}f}".replace("-", "−")


def count(n: int, name: str) -> str:
    """Return a number with its noun."""
    return f"{n} {name}" if n == 1 else f"{n} {name}s"
