"""The report of a finished run: a self-contained HTML page, and its figures as files."""

import base64
import io
import math
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from metalens.io.files import atomic_path, remove_partials, writing_into
from metalens.metrics import meanings, primary_metric
from metalens.reports import figures
from metalens.reports.formats import FORMATS
from metalens.reports.reading import read_manifest, read_results, read_tables
from metalens.reports.sentences import (
    divergence_in_words,
    faults_in_words,
    few_seeds_in_words,
    lost_tasks_in_words,
    outcome,
    relations_in_words,
)
from metalens.reports.tables import interval_rows, table_rows, worst_in_words
from metalens.statistics.arms import ARM, arm_label
from metalens.statistics.comparisons import (
    by_domain,
    intervals_compared,
    paired_differences,
    summarize,
    worst_tasks,
)
from metalens.statistics.intervals import estimate
from metalens.statistics.numbers import metric_title


def write_report(directory: str | Path) -> Path:
    """Write `report.html`, `figures/*.svg` and `figures/*.png` (150 dpi) from the files of a finished run.

    The same files give the same report, byte for byte.

    Args:
        directory: folder with `manifest.json`, `results.csv` and `metrics.csv`, and optionally `curves.csv`
            and `relations.csv`.

    Returns:
        The path of `report.html`, which needs no other file and no network.

    Raises:
        MetaLensError: a file is missing, damaged or lacks a column; the arms were scored on different
            tasks; the folder is not writable.
    """
    directory = Path(directory)
    tables, manifest = read_tables(directory), read_manifest(directory)
    summary, paired = summarize(tables["results.csv"]), paired_differences(tables["results.csv"])
    drawn = {}
    if not tables["metrics.csv"].empty:
        drawn["learning-curves"] = figures.learning_curves(tables["metrics.csv"])
    if not paired.empty:
        drawn["differences"] = figures.differences(paired)
        drawn["tradeoff"] = figures.tradeoff(*_scores_and_seconds(summary, manifest))
    if "curves.csv" in tables:
        drawn["predictions"] = figures.predictions(tables["curves.csv"])
    if "relations.csv" in tables:
        drawn["relations"] = figures.relations(tables["relations.csv"])
    with writing_into(directory):
        folder = figures_folder(directory)
        images = {name: save_figure(figure, folder / name) for name, figure in drawn.items()}
        report = directory / "report.html"
        with atomic_path(report) as path:
            path.write_text(_render(tables, manifest, summary, paired, images), encoding="utf-8")
    return report


def write_table(directory: str | Path, kind: str) -> Path:
    """Write the table of a finished run as text: `report.md`, `report.tex` or `summary.csv`.

    Args:
        directory: folder with `results.csv`.
        kind: a key of `FORMATS`.

    Returns:
        The path of the file.

    Raises:
        MetaLensError: as `write_report`.
    """
    name, text_of = FORMATS[kind]
    target = Path(directory) / name
    text = text_of(read_results(directory))
    with writing_into(Path(directory)), atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")
    return target


def figures_folder(folder: Path) -> Path:
    """Return the folder for the figures of a report, without remains of killed writers."""
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    remove_partials(figures)
    return figures


def save_figure(figure: Figure, target: Path) -> str:
    """Write a figure as PNG and SVG, and return the SVG as a data URI."""
    with atomic_path(target.with_suffix(".png")) as path:
        figure.savefig(path, format="png", dpi=150)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "metalens"}):  # else the ids in the file are random
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    with atomic_path(target.with_suffix(".svg")) as path:
        path.write_bytes(buffer.getvalue())
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _render(
    tables: dict[str, pd.DataFrame],
    manifest: dict[str, Any],
    summary: pd.DataFrame,
    paired: pd.DataFrame,
    images: dict[str, str],
) -> str:
    results, metrics = tables["results.csv"], summary["metric"].unique()
    primary = primary_metric(metrics)
    intervals = intervals_compared(results)
    return template(Path(__file__).parent / "report.html.j2").render(
        manifest=manifest,
        outcome=outcome(summary, paired),
        cautions=few_seeds_in_words(summary),
        relations=relations_in_words(tables["metrics.csv"]),
        meanings=meanings(metrics),
        baseline=arm_label(*summary.iloc[0][ARM]),
        seeds=results["seed"].unique().tolist(),
        is_crossed="source" in results and results["source"].notna().all(),
        n_tasks=int(summary["n_tasks"].iloc[0]),
        n_comparisons=len(paired),
        steps=int(tables["metrics.csv"]["step"].max()) if "learning-curves" in images else 0,
        validated=bool((tables["metrics.csv"]["split"] == "val").any()),
        scores={metric_title(metric): table_rows(summary, paired, metric) for metric in metrics},
        intervals={metric_title(metric): interval_rows(intervals, metric) for metric in metrics},
        worst=worst_in_words(worst_tasks(results[results["metric"] == primary]), primary),
        domains=_domains(results, primary),
        diverged=[
            *divergence_in_words(tables["metrics.csv"]),
            *faults_in_words(tables["metrics.csv"]),
            *lost_tasks_in_words(summary),
        ],
        arms=_arms(manifest),
        failures=[(arm_label(*(cell[key] for key in ARM)), cell) for cell in manifest["failures"]],
        images=images,
    )


def _domains(results: pd.DataFrame, metric: str) -> dict[str, list[dict[str, str | bool]]]:
    """Return the rows of a table for each part of the test domains."""
    parts = by_domain(results[results["metric"] == metric]).items()
    return {title: table_rows(summarize(rows), paired_differences(rows), metric) for title, rows in parts}


def _scores_and_seconds(summary: pd.DataFrame, manifest: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the primary scores and the training times of a seed, both indexed by the labels of arms."""
    primary = summary[summary["metric"] == primary_metric(summary["metric"])]
    scores = primary.set_index(pd.Index([arm_label(*arm) for arm in primary[ARM].to_numpy()]))
    cells = pd.DataFrame(manifest["cells"], columns=[*ARM, "train_seconds"])
    seconds = {
        arm_label(*arm): estimate(times.to_numpy(float)[None])[:3]
        for arm, times in cells.groupby(ARM, sort=False)["train_seconds"]
    }
    table = pd.DataFrame.from_dict(seconds, orient="index", columns=["mean", "low", "high"])
    return scores, table.reindex(scores.index)


def template(path: Path) -> jinja2.Template:
    """Return a template of a report, which may include those of this package, such as `report.css`."""
    loader, strict = jinja2.FileSystemLoader([path.parent, Path(__file__).parent]), jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=strict, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"duration": _duration, "setting": _setting}
    return environment.get_template(path.name)


def _arms(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the manifest's arms with label, mean times per seed and the execution of the first seed."""
    arms = []
    for arm in manifest["arms"]:
        own = [cell for cell in manifest["cells"] if all(cell[key] == arm[key] for key in ARM)]
        cells = pd.DataFrame(own)
        times = {key: cells[key].mean() if len(cells) else None for key in ("train_seconds", "test_seconds")}
        execution = cells["execution"].iloc[0] if "execution" in cells else None
        arms.append({**arm, **times, "execution": execution, "label": arm_label(*(arm[key] for key in ARM))})
    return arms


def _duration(seconds: float | None) -> str:
    """Return a readable duration.

    >>> _duration(0.42), _duration(75), _duration(7265)
    ('0.4 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return "n/a"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _setting(value: Any) -> str:
    """Return a value of the configuration as text.

    >>> _setting([0, 1]), _setting(None), _setting(0.1)
    ('0, 1', 'none', '0.1')
    """
    if isinstance(value, list):
        return ", ".join(_setting(item) for item in value)
    return "none" if value is None else str(value)
