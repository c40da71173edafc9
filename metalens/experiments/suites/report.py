"""The report of a suite: a page over its entries, and a table of all scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from metalens.errors import MetaLensError
from metalens.io.files import SUITE, atomic_path
from metalens.io.json import read_json
from metalens.metrics import METRICS, primary_metric
from metalens.reports.formats import as_csv, escaped, latex_row, piped
from metalens.reports.numbers import metric_title
from metalens.reports.reading import naming_damage, read_results
from metalens.reports.run import template
from metalens.reports.sentences import few_seeds_in_words
from metalens.reports.tables import table_rows
from metalens.statistics.arms import ARM, arm_label
from metalens.statistics.comparisons import paired_differences, summarize

RESULTS = "results.csv"
# The layout of `suite.json`, of its entries, and of their failures.
FAILURE: dict[str, Any] = {**dict.fromkeys([*ARM, "reason", "traceback"], str), "seed": int}
ENTRY: dict[str, Any] = {
    **dict.fromkeys(["name", "recipe", "description", "status", "reason", "traceback"], str),
    "failures": [FAILURE],
}
STATE: dict[str, Any] = {
    **dict.fromkeys(["metalens", "suite", "description", "command", "started"], str),
    "size": (str, type(None)), "threads": int, "seconds": (int, float), "entries": [ENTRY],
}  # fmt: skip


class Scores(NamedTuple):
    """The scores of an entry in its first metric.

    Attributes:
        metric: with its unit and its good direction.
        rows: of `table_rows`, by arm; differences are to the best arm.
        best: the best arm; `None` where no mean is finite.
        alike: arms that do not differ from it significantly.
        cautions: limits of the comparison, as sentences.
    """

    metric: str
    rows: dict[str, dict[str, str | bool]]
    best: str | None
    alike: list[str]
    cautions: list[str]


def is_suite(folder: Path) -> bool:
    """Return whether a folder is that of a suite."""
    return (folder / SUITE).is_file()


def read_state(folder: Path) -> dict[str, Any]:
    """Return the settings of a suite and the state of every entry.

    Raises:
        MetaLensError: the file is missing or damaged.
    """
    return read_json(folder / SUITE, "run the suite again", STATE)


def write_suite_report(folder: str | Path) -> Path:
    """Write `report.html` and `results.csv` of a suite from the files of its entries so far.

    Args:
        folder: with `suite.json` and a folder for each entry.

    Returns:
        The path of `report.html`; it links the reports of the entries.

    Raises:
        MetaLensError: a file is damaged, or the folder is not writable.
    """
    folder = Path(folder)
    state = read_state(folder)
    results = _results(folder, state)
    scores = {name: scores_of(rows) for name, rows in results.items()}
    with naming_damage(folder, "run the suite"):
        page = template(Path(__file__).parent / "suite.html.j2").render(
            state=state,
            outcome=outcome(state),
            entries=[_entry(folder, entry, scores.get(entry["name"])) for entry in state["entries"]],
            scores=scores,
            arms=arms_in_order(scores),
            failures=[
                (entry["name"], {**failure, "label": arm_label(*(failure[key] for key in ARM))})
                for entry in state["entries"]
                for failure in entry["failures"]
            ],
            cautions=sorted({sentence for of_entry in scores.values() for sentence in of_entry.cautions}),
        )
    if results:
        with atomic_path(folder / RESULTS) as path:
            frames = [rows.assign(entry=name) for name, rows in results.items()]
            together = pd.concat(frames, ignore_index=True)
            together[["entry", *together.columns.drop("entry")]].to_csv(path, index=False)
    with atomic_path(folder / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    return folder / "report.html"


def write_suite_table(folder: Path, kind: str) -> Path:
    """Write the scores of all arms on all entries as text: `report.md`, `report.tex` or `summary.csv`.

    Raises:
        MetaLensError: no entry has scores; or a file is damaged.
    """
    results = _results(folder, read_state(folder))
    if not results:
        raise MetaLensError(f"No recipe of the suite in {folder} is done, so there is no table.")
    name, text_of = {
        "md": ("report.md", _as_markdown), "latex": ("report.tex", _as_latex), "csv": ("summary.csv", _as_csv)
    }[kind]  # fmt: skip
    with atomic_path(folder / name) as path:
        path.write_text(text_of(results), encoding="utf-8")
    return folder / name


def outcome(state: dict[str, Any]) -> str:
    """Return the progress of a suite as one sentence.

    >>> outcome({"entries": [{"name": "a", "status": "done"}, {"name": "b", "status": "failed"}]})
    '1 of 2 entries is done; b failed.'
    """
    names = {
        status: [entry["name"] for entry in state["entries"] if entry["status"] == status]
        for status in ("done", "failed", "waiting")
    }
    n_done, n = len(names["done"]), len(state["entries"])
    text = f"{n_done} of {n} entries {'is' if n_done == 1 else 'are'} done"
    if names["failed"]:
        text += f"; {', '.join(names['failed'])} failed"
    if names["waiting"]:
        text += f"; {', '.join(names['waiting'])} {'is' if len(names['waiting']) == 1 else 'are'} left"
    return text + "."


def scores_of(results: pd.DataFrame) -> Scores:
    """Return the scores of a run in its first metric, with the arms that do not differ from the best.

    >>> results = pd.DataFrame({"learner": list("AAABBB"), "regularizers": "none", "sampler": "Uniform",
    ...                         "seed": 0, "task": [0, 1, 2] * 2, "metric": "mse",
    ...                         "value": [1, 2, 3, 0, 1, 4.0]})
    >>> scores_of(results).best, scores_of(results).alike
    ('B', ['A'])
    """
    metric = primary_metric(results["metric"])
    rows = results[results["metric"] == metric]
    summary = summarize(rows)
    finite = summary[summary["mean"].abs() < float("inf")]
    if finite.empty:
        return Scores(metric_title(metric), {}, None, [], [])
    means = finite["mean"]
    best = finite.loc[means.idxmax() if METRICS[metric].better == "higher" else means.idxmin()]
    paired = paired_differences(rows, tuple(best[ARM]))
    table = {str(row["arm"]): row for row in table_rows(summary, paired, metric)}
    alike = [arm for arm, row in table.items() if row["verdict"] == "no significant difference"]
    name = next(arm for arm, row in table.items() if not row["verdict"])
    return Scores(metric_title(metric), table, name, alike, few_seeds_in_words(summary))


def arms_in_order(scores: dict[str, Scores]) -> list[str]:
    """Return the arms of all entries, each once."""
    return list(dict.fromkeys(arm for of_entry in scores.values() for arm in of_entry.rows))


def entries_table(folder: Path, state: dict[str, Any]) -> Table:
    """Return a table for the terminal: every entry with its status and best arm."""
    scores = {name: scores_of(rows) for name, rows in _results(folder, state).items()}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("entry", "status", "best arm", "mean"):
        table.add_column(name)
    for entry in state["entries"]:
        name, cells = entry["name"], ["", ""]
        of_entry = scores.get(name)
        if of_entry is not None and of_entry.best is not None:
            row, n = of_entry.rows[of_entry.best], len(of_entry.alike)
            alike = f"\nand {n} without a significant difference" if n else ""
            cells = [of_entry.best + alike, f"{row['mean']} {row['interval']}\n{of_entry.metric}"]
        elif entry["reason"]:
            cells = [entry["reason"], ""]
        table.add_row(*map(Text, [name, entry["status"], *cells]))
    return table


def _results(folder: Path, state: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """Return the scores of the entries that are runs and have some, by entry."""
    names = [entry["name"] for entry in state["entries"] if entry["status"] != "waiting"]
    return {
        name: read_results(folder / name)
        for name in names
        if (folder / name / RESULTS).is_file() and (folder / name / "report.html").is_file()
    }


def _entry(folder: Path, entry: dict[str, Any], scores: Scores | None) -> dict[str, Any]:
    """Return a row of the first table: the entry with its scores."""
    target = folder / entry["name"]
    row = None if scores is None or scores.best is None else scores.rows[scores.best]
    has_report = entry["status"] != "waiting" and (target / "report.html").is_file()
    return {**entry, "scores": scores, "best": row, "has_report": has_report}


def _as_csv(results: dict[str, pd.DataFrame]) -> str:
    """Return the summaries of all entries, one below the other."""
    texts = [as_csv(rows).splitlines() for rows in results.values()]
    lines = [f"entry,{texts[0][0]}"]
    lines += [f"{name},{line}" for name, text in zip(results, texts, strict=True) for line in text[1:]]
    return "\n".join(lines) + "\n"


def _as_markdown(results: dict[str, pd.DataFrame]) -> str:
    scores = {name: scores_of(rows) for name, rows in results.items()}
    lines = [piped(["arm", *(f"{name} ({of_entry.metric})" for name, of_entry in scores.items())])]
    lines.append("|---|" + "--:|" * len(scores))
    for arm in arms_in_order(scores):
        lines.append(piped([arm, *(_cell(of_entry, arm, "**{}**", " †") for of_entry in scores.values())]))
    return "\n".join(lines) + "\n\n" + " ".join(LEGEND) + "\n"


def _as_latex(results: dict[str, pd.DataFrame]) -> str:
    scores = {name: scores_of(rows) for name, rows in results.items()}
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering"]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(scores)}}}", r"\toprule"]
    lines.append(latex_row(map(escaped, ["", *scores])))
    lines.append(latex_row(map(escaped, ["", *(of_entry.metric for of_entry in scores.values())])))
    lines.append(r"\midrule")
    for arm in arms_in_order(scores):
        cells = [
            _cell(of_entry, arm, r"\textbf{{{}}}", r"$^\dagger$", tex=True) for of_entry in scores.values()
        ]
        lines.append(latex_row([escaped(arm), *cells]))
    caption = escaped(LEGEND[0]) + r" $^\dagger$: " + escaped(LEGEND[1].removeprefix("†: "))
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


LEGEND = [
    "Mean with 95% interval; bold: the best mean.",
    "†: no significant difference to it on the same tasks, corrected for the number of arms (Holm).",
]


def _cell(scores: Scores, arm: str, bold: str, mark: str, tex: bool = False) -> str:
    row = scores.rows.get(arm)
    if row is None:
        return ""
    mean, interval = (escaped(str(row[key])) if tex else str(row[key]) for key in ("mean", "interval"))
    text = bold.format(mean) if arm == scores.best else mean
    return f"{text} {interval}" + (mark if arm in scores.alike else "")
