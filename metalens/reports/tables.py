"""Results as rows of text for a page, and as a table for the terminal."""

import math
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from metalens.metrics import METRICS, meanings
from metalens.reports.sentences import few_seeds_in_words, size_in_words
from metalens.statistics.arms import ARM, arm_label
from metalens.statistics.comparisons import paired_differences, summarize, wrapped
from metalens.statistics.numbers import decimals, interval, metric_title, number

PLAIN: dict[str, Any] = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False}  # of tables
COMPARED = (  # cells of a difference
    "difference", "difference_interval", "relative", "p_holm", "verdict", "p", "p_wilcoxon", "effect", "wins",
)  # fmt: skip


def results_of_models(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of models, `model, ...`, as those of the arms of a run with one seed.

    >>> results_of_models(pd.DataFrame({"model": ["ANIL"]})).values.tolist()
    [['ANIL', 'none', 'Uniform', 0]]
    """
    of_arms = rows.rename(columns={"model": "learner"}).assign(regularizers="none", sampler="Uniform")
    return of_arms if "seed" in of_arms else of_arms.assign(seed=0)


def table_rows(summary: pd.DataFrame, paired: pd.DataFrame, metric: str) -> list[dict[str, str | bool]]:
    """Return the numbers of one metric as text, a row per arm; fractions are in percent.

    Args:
        summary: from `summarize`.
        paired: from `paired_differences`.
        metric: one of their metrics.

    Returns:
        Rows with `arm, best, mean, interval, median, rank, difference, difference_interval, relative, p_holm,
        verdict, p, p_wilcoxon, effect, wins`, from `difference` on empty for the baseline. `best` marks the
        best finite mean.
    """
    summary, paired = (table[table["metric"] == metric] for table in (summary, paired))
    table = summary.merge(paired, on=ARM, how="left", suffixes=("", "_difference"))
    finite = summary["mean"][summary["mean"].abs() < math.inf]
    best = finite.max() if METRICS[metric].better == "higher" else finite.min()
    scale = METRICS[metric].scale
    digits = decimals(table["mean"] * scale, table["high"] * scale)
    change_digits = decimals(table["difference"] * scale, table["high_difference"] * scale)
    rows = []
    for _, row in table.iterrows():
        cells: dict[str, str | bool] = {
            "arm": arm_label(*row[ARM]),
            "best": len(summary) > 1 and row["mean"] == best,
            "mean": number(row["mean"] * scale, digits),
            "interval": interval(row["low"] * scale, row["high"] * scale, digits),
            "median": number(row["median"] * scale, digits),
            "rank": number(row["rank"], 2),
        }
        cells |= dict.fromkeys(COMPARED, "")
        if isinstance(row["verdict"], str):
            limits = row["low_difference"] * scale, row["high_difference"] * scale
            cells |= {
                "difference": number(row["difference"] * scale, change_digits, "+"),
                "difference_interval": interval(*limits, change_digits, "+"),
                "relative": number(row["relative"] * 100, 1, "+") + "%" * math.isfinite(row["relative"]),
                **{name: _p(row[name]) for name in ("p_holm", "p", "p_wilcoxon")},
                "effect": number(row["effect"], 2, "+"),
                "wins": f"{row['wins']:.0%}",
                "verdict": row["verdict"],
            }
        rows.append(cells)
    return rows


def interval_rows(intervals: pd.DataFrame, metric: str) -> list[dict[str, str]]:
    """Return the three intervals of one metric as text, a row per arm: `arm, t, boot, usual`.

    Args:
        intervals: from `intervals_compared`.
        metric: one of their metrics.
    """
    rows = intervals[intervals["metric"] == metric]
    scale = METRICS[metric].scale
    digits = decimals(rows["mean"] * scale, rows["high"] * scale)
    prefixes = {"t": "", "boot": "boot_", "usual": "usual_"}
    return [
        {"arm": arm_label(*row[ARM])}
        | {
            name: interval(row[f"{prefix}low"] * scale, row[f"{prefix}high"] * scale, digits)
            for name, prefix in prefixes.items()
        }
        for _, row in rows.iterrows()
    ]


def worst_in_words(worst: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    """Return the worst tasks, a row per arm: `arm`, and lists of text `worst` and `behind`.

    Args:
        worst: from `worst_tasks`.
        metric: of their values.

    >>> tasks = pd.DataFrame({"learner": "MAML", "regularizers": "none", "sampler": "Uniform",
    ...                       "kind": "worst", "seed": [0, 1], "task": [7, 3],
    ...                       "value": [2.5, 2.25], "change": [0.0, 0.0]})
    >>> worst_in_words(tasks, "mse")
    [{'arm': 'MAML', 'worst': ['2.50 (task 7, seed 0)', '2.25 (task 3, seed 1)'], 'behind': []}]
    """
    scale = METRICS[metric].scale
    digits = max(decimals(worst["value"] * scale, worst["value"] * scale) - 1, 0)
    rows = []
    for arm, of_arm in worst.groupby(ARM, sort=False):
        cells: dict[str, Any] = {"arm": arm_label(*arm)}
        for kind, column, sign in (("worst", "value", "-"), ("behind", "change", "+")):
            cells[kind] = [
                f"{number(row[column] * scale, digits, sign)} (task {row['task']}, seed {row['seed']})"
                for _, row in of_arm[of_arm["kind"] == kind].iterrows()
            ]
        rows.append(cells)
    return rows


def results_table(
    results: pd.DataFrame, title: str | None = None, *, arms: str = "arm", caption: str | None = None
) -> Table:
    """Return the arms' means and paired differences as a table for a terminal of 80 columns.

    Args:
        results: rows `learner, regularizers, sampler, seed, task, metric, value`, one per test task.
        title: of the table.
        arms: header of the first column.
        caption: by default the numbers of seeds and tasks.

    Returns:
        A section per metric, the primary one first; differences are to the first arm.

    Raises:
        MetaLensError: two arms were scored on different tasks.
    """
    summary, paired = summarize(results), paired_differences(results)
    if caption is None:
        caption = f"On {size_in_words(summary.iloc[0])}; 95% intervals in brackets"
        caption += "." if paired.empty else f"; differences to {arm_label(*summary.iloc[0][ARM])}."
        caption += "".join(f" {sentence}" for sentence in few_seeds_in_words(summary))
    caption += f" {meanings(summary['metric'])}".rstrip()
    heading = None if title is None else Text(title)
    table = Table(caption=Text(caption), title=heading, title_justify="left", **PLAIN)
    table.add_column(arms, no_wrap=True)
    table.add_column("mean", no_wrap=True, justify="right")
    if not paired.empty:
        table.add_column("paired difference", no_wrap=True, justify="right")
        table.add_column("verdict", min_width=14, max_width=14)
    for metric in summary["metric"].unique():
        table.add_section()
        table.add_row(Text(metric_title(metric).replace(", ", ",\n"), style="italic"))
        for row in table_rows(summary, paired, metric):
            cells = [
                Text(wrapped(str(row["arm"]), 20)),
                Text(f"{row['mean']}\n{row['interval']}", style="bold" if row["best"] else ""),
                Text(f"{row['difference']}\n{row['difference_interval']}"),
                Text(str(row["verdict"])),
            ]
            table.add_row(*cells[: len(table.columns)])
    return table


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else number(p, 3)
