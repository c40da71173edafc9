"""The report of a suite: a page on its entries, and a table of all scores."""

from collections.abc import Callable, Iterator
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
from metalens.reports.reading import naming_damage, read_results
from metalens.reports.run_report import template
from metalens.reports.sentences import few_seeds_in_words
from metalens.reports.tables import table_rows
from metalens.statistics.arms import ARM, arm_label
from metalens.statistics.comparisons import paired_differences, summarize
from metalens.statistics.numbers import metric_title

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
    """The scores of an entry in its primary metric.

    Attributes:
        metric: with its unit and better direction.
        rows: of `table_rows`, by arm; differences are to the best arm.
        best: the best arm; `None` if no mean is finite.
        alike: arms without a significant difference to it.
        cautions: limits of the comparison, as sentences.
    """

    metric: str
    rows: dict[str, dict[str, str | bool]]
    best: str | None
    alike: list[str]
    cautions: list[str]


def read_state(folder: Path) -> dict[str, Any]:
    """Return the settings of a suite and the state of every entry.

    Raises:
        MetaLensError: the file is missing or damaged.
    """
    return read_json(folder / SUITE, "run the suite again", STATE)


def write_suite_report(folder: str | Path) -> Path:
    """Write `report.html` and `results.csv` of a suite, finished or not.

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
            pd.concat(frames, ignore_index=True).set_index("entry").to_csv(path)
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
    writers = {"md": _as_markdown, "latex": _as_latex, "csv": _as_csv}
    name = {"md": "report.md", "latex": "report.tex", "csv": "summary.csv"}[kind]
    with atomic_path(folder / name) as path:
        path.write_text(writers[kind](results), encoding="utf-8")
    return folder / name


def outcome(state: dict[str, Any]) -> str:
    """Return the progress of a suite as one sentence.

    >>> outcome({"entries": [{"name": "a", "status": "done"}, {"name": "b", "status": "failed"}]})
    '1 of 2 entries is done; b failed.'
    """
    done, failed, waiting = (
        [entry["name"] for entry in state["entries"] if entry["status"] == status]
        for status in ("done", "failed", "waiting")
    )
    parts = [f"{len(done)} of {len(state['entries'])} entries {'is' if len(done) == 1 else 'are'} done"]
    parts += [f"{', '.join(failed)} failed"] if failed else []
    parts += [f"{', '.join(waiting)} {'is' if len(waiting) == 1 else 'are'} left"] if waiting else []
    return "; ".join(parts) + "."


def scores_of(results: pd.DataFrame) -> Scores:
    """Return the scores of a run in its primary metric.

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
    """Return the entries with status and best arm as a table for the terminal."""
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
    """Return the scores by entry, of entries that have some."""
    names = [entry["name"] for entry in state["entries"] if entry["status"] != "waiting"]
    is_there = {name: all((folder / name / f).is_file() for f in (RESULTS, "report.html")) for name in names}
    return {name: read_results(folder / name) for name in names if is_there[name]}


def _entry(folder: Path, entry: dict[str, Any], scores: Scores | None) -> dict[str, Any]:
    """Return an entry with its scores."""
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
    lines += [piped(row) for row in _rows(scores, "**{}**", " †", str)]
    return "\n".join(lines) + "\n\n" + " ".join(LEGEND) + "\n"


def _as_latex(results: dict[str, pd.DataFrame]) -> str:
    scores = {name: scores_of(rows) for name, rows in results.items()}
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering"]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(scores)}}}", r"\toprule"]
    lines.append(latex_row(map(escaped, ["", *scores])))
    lines.append(latex_row(map(escaped, ["", *(of_entry.metric for of_entry in scores.values())])))
    lines.append(r"\midrule")
    lines += [latex_row(row) for row in _rows(scores, r"\textbf{{{}}}", r"$^\dagger$", escaped)]
    caption = escaped(LEGEND[0]) + r" $^\dagger$: " + escaped(LEGEND[1].removeprefix("†: "))
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


LEGEND = [
    "Mean with 95% interval; bold: the best mean.",
    "†: no significant difference to it on the same tasks, corrected for the number of arms (Holm).",
]


def _rows(
    scores: dict[str, Scores], bold: str, mark: str, escape: Callable[[str], str]
) -> Iterator[list[str]]:
    """Yield each arm with its score on every entry."""
    for arm in arms_in_order(scores):
        cells = [escape(arm)]
        for of_entry in scores.values():
            text = ""
            if row := of_entry.rows.get(arm):
                mean = escape(str(row["mean"]))
                text = bold.format(mean) if arm == of_entry.best else mean
                text += f" {escape(str(row['interval']))}" + (mark if arm in of_entry.alike else "")
            cells.append(text)
        yield cells
