"""The report of a sweep, finished or not: best settings, trials, and the importance of settings."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml
from optuna.trial import FrozenTrial, TrialState

from metalens.experiments.arms import arms_of
from metalens.experiments.loading import command_of, recipe_of
from metalens.experiments.recipe import FIXED, Recipe
from metalens.experiments.sweeps import figures
from metalens.experiments.sweeps.space import setting_text, with_values
from metalens.experiments.sweeps.trials import read_study, read_sweep, reraise_damage, retried, retry_of
from metalens.io.files import SWEEP, atomic_path, writing_into
from metalens.metrics import METRICS
from metalens.reports.run_report import figures_folder, save_figure, template

MIN_TRIALS = 10  # complete ones, below which importances would be a guess
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
_WORDS = {
    "complete": "trained to the end",
    "pruned": "ended early, being behind others at the same step",
    "diverged": "diverged",
    "failed": "could not be trained",
    "lost": "given up, as their processes were lost again and again",
    "repeated": "lost or interrupted and tried again",
    "running": "not yet done",
}


@dataclass(frozen=True)
class SweepResult:
    """The state of a sweep.

    Attributes:
        about: its description, such as `recipe`, `configuration`, `space`, `metric` and `command`.
        trials: rows `trial, state, score, steps, seconds`, the settings, `process, note`.
        importances: of the settings, with sum 1; empty below `MIN_TRIALS` complete trials.
        best: the recipe with the best settings; `None` before a trial is complete.
    """

    about: dict[str, Any]
    trials: pd.DataFrame
    importances: dict[str, float]
    best: Recipe | None

    @property
    def names(self) -> list[str]:
        """The names of the swept settings."""
        return list(self.about["space"])

    @property
    def best_trial(self) -> pd.Series:
        """The row of the best trial, which requires a complete one."""
        scores = self.trials[self.trials["state"] == "complete"]["score"]
        best = scores.idxmax() if METRICS[self.about["metric"]].better == "higher" else scores.idxmin()
        return self.trials.loc[best]

    @property
    def command(self) -> str | None:
        """The command that trains and tests with the best settings."""
        return None if self.best is None else command_of(self.best)


def read_result(folder: Path) -> SweepResult:
    """Return the state of the sweep in a folder.

    Raises:
        MetaLensError: a file is missing, damaged or of another version.
    """
    about = read_sweep(folder)
    names, study, recipe = list(about["space"]), read_study(folder), recipe_of(about)
    known = [] if study is None else study.get_trials(deepcopy=False)
    again = retried(known)
    trials = pd.DataFrame(
        [_row(trial, names, again) for trial in known],
        columns=["trial", "state", "score", "steps", "seconds", *names, "process", "note"],
    )
    best, importances = None, {}
    complete = trials[trials["state"] == "complete"]
    if study is not None and len(complete):
        with reraise_damage(folder / SWEEP):
            best = with_values(recipe, study.best_params)
        if len(complete) >= MIN_TRIALS and complete["score"].nunique() > 1:
            importances = optuna.importance.get_param_importances(study)
    return SweepResult(about, trials, importances, best)


def _row(trial: FrozenTrial, names: list[str], again: set[int]) -> dict[str, Any]:
    attributes, state = trial.user_attrs, _STATES.get(trial.state, "running")
    note = attributes.get("diverged") or attributes.get("error") or ""
    if trial.number in again:
        state = "repeated"
    elif "diverged" in attributes:
        state = "diverged"
    elif state == "failed" and not note:
        state = "lost"
    if (number := retry_of(trial)) is not None:
        note = f"repeats trial {number}. {note}".strip()
    return {
        "trial": trial.number,
        "state": state,
        "score": math.nan if trial.value is None else trial.value,
        "steps": trial.last_step or 0,
        "seconds": trial.duration.total_seconds() if trial.duration else math.nan,
        **{name: trial.params.get(name) for name in names},
        "process": attributes.get("process", ""),
        "note": note,
    }


def write_sweep_report(folder: str | Path) -> Path:
    """Write `report.html`, `trials.csv`, figures, and `best.yaml` if a trial is complete.

    Args:
        folder: of a sweep, finished or not.

    Returns:
        The path of `report.html`, which needs no other file and no network.

    Raises:
        MetaLensError: a file is missing or damaged, or the folder is not writable.
    """
    folder = Path(folder)
    result, report = read_result(folder), folder / "report.html"
    with writing_into(folder):
        drawn = figures_folder(folder)
        with reraise_damage(folder / SWEEP):
            images = {name: save_figure(figure, drawn / name) for name, figure in _figures(result).items()}
            page = _render(folder, result, images)
        with atomic_path(folder / "trials.csv") as path:
            result.trials.to_csv(path, index=False)
        if result.best is not None:
            settings = {name: value for name, value in asdict(result.best).items() if name not in FIXED}
            with atomic_path(folder / "best.yaml") as path:
                path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        with atomic_path(report) as path:
            path.write_text(page, encoding="utf-8")
    return report


def outcome_in_words(result: SweepResult) -> list[str]:
    """Return sentences on the best settings so far and the number of trials by state."""
    counts = result.trials["state"].value_counts()
    n = len(result.trials) - int(counts.get("repeated", 0))
    parts = [f"{counts[state]} {words}" for state, words in _WORDS.items() if state in counts]
    trials = f"{n} trial{'' if n == 1 else 's'}"
    counted = f"Of {trials}: {', '.join(parts)}." if parts else "No trial has begun."
    if result.best is None:
        return [f"There is no best setting yet. {counted}"]
    row, seeds = result.best_trial, len(result.best.seeds)
    settings = ", ".join(f"{name} {setting_text(row[name])}" for name in result.names)
    return [
        f"Best is trial {row['trial']} with {settings}: validation {result.about['metric']} "
        f"{row['score']:.4g}, {'the mean over ' + str(seeds) + ' seeds' if seeds > 1 else 'of one seed'}.",
        counted,
    ]


def _figures(result: SweepResult) -> dict[str, Any]:
    if result.best is None:
        return {}
    metric, ended = result.about["metric"], result.trials[result.trials["state"].isin(figures.STATES)]
    drawn = {"history": figures.history(ended, metric)}
    if len(result.importances) > 1:
        drawn["importances"] = figures.importances(result.importances)
    drawn["slices"] = figures.slices(ended, metric, result.about["space"])
    return drawn


def _render(folder: Path, result: SweepResult, images: dict[str, str]) -> str:
    trials, about = result.trials, result.about
    ascending = METRICS[about["metric"]].better == "lower"
    order = trials["state"].map(list(_WORDS).index)
    rows = trials.assign(order=order).sort_values(["order", "score"], ascending=[True, ascending])
    records = rows.to_dict("records")
    return template(Path(__file__).parent / "sweep.html.j2").render(
        about=about,
        arm=str(arms_of(recipe_of(about))[0]),
        outcome=outcome_in_words(result),
        command=result.command,
        config=folder / "best.yaml",
        names=result.names,
        space={name: _range(values) for name, values in about["space"].items()},
        n_complete=int((trials["state"] == "complete").sum()),
        rows=[row | {"settings": [setting_text(row[name]) for name in result.names]} for row in records],
        images=images,
    )


def _range(values: Any) -> str:
    """Return the values of a setting as text, such as "0.1 to 1, logarithmic" or "4, 8"."""
    if isinstance(values, dict):
        return f"{values['low']} to {values['high']}{', logarithmic' if values.get('log') else ''}"
    return ", ".join(map(setting_text, values))
