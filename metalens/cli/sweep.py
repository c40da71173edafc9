"""`metalens sweep RECIPE`: search for good settings of one arm, by validation tasks alone."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
from rich.progress import Progress

from metalens.cli.report import show_sweep
from metalens.cli.run import add_recipes, add_settings, with_settings
from metalens.errors import MetaLensError
from metalens.experiments import Recipe, find_recipe
from metalens.experiments.sweeps.space import read_space, setting_text
from metalens.experiments.sweeps.sweep import LOST_AFTER, Sweep, SweepWatcher, search
from metalens.experiments.sweeps.trials import Pruner
from metalens.specs.outside import file_name
from metalens.training.progress import StepBar, progress_bars

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

OWN = {"space", "trials", "out", "pruner", "lost_after"}  # settings of the command


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the recipes with their settings to the command's parser."""
    parser.description = (
        "Search for good settings of a recipe with one arm. The same command, started again, joins or "
        "continues the sweep."
    )
    add_recipes(parser, words, "recipe", OWN, _parser)


def _parser(recipe: Recipe) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, description=recipe.description)
    # fmt: off
    add = parser.add_argument
    add("--config", action="config", help="YAML file with any of these settings.")
    add("--space", type=str, required=True, help="YAML file: settings and their values.")
    add("--trials", type=int, default=50, help="Number of trials, earlier ones included.")
    add("--out", type=str, default=f"sweeps/{file_name(recipe.name)}",
        help="Folder of the sweep, new or existing.")
    add("--pruner", type=Pruner, default="median",
        help="Which trials end early: those behind the median, those that halving drops, none.")
    add("--lost_after", type=float, default=LOST_AFTER,
        help="Seconds without a heartbeat, after which the trial of a process is retried.")
    # fmt: on
    add_settings(parser, recipe)
    return parser


def execute(settings: Namespace, words: list[str]) -> None:
    """Search, and show the results."""
    choices = settings[settings.recipe]
    recipe = with_settings(find_recipe(settings.recipe), choices)
    if recipe.machine.workers == "ray":
        raise MetaLensError("A sweep runs on one machine; give a number of workers instead of ray.")
    space, out = read_space(Path(choices.space), recipe), Path(choices.out)
    sweep = Sweep(recipe, space, choices.trials, choices.pruner, choices.lost_after)
    command = shlex.join(["metalens", *words])
    with progress_bars() as progress:
        from metalens.experiments.sweeps.report import write_sweep_report  # slow to import

        try:
            watcher, workers = LiveProgress(progress, sweep), recipe.machine.workers
            search(sweep, out, workers=workers, command=command, watcher=watcher)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command continues the sweep") from None
        write_sweep_report(out)
    show_sweep(out)


class LiveProgress(SweepWatcher):
    """Shows the trials of all processes, and the training of this one."""

    def __init__(self, progress: Progress, sweep: Sweep) -> None:
        self.progress = progress
        self.trials = progress.add_task("all trials", total=sweep.n_trials, status="")
        self.steps = StepBar(progress)
        self.n_steps = sweep.recipe.steps

    def start_trial(self, number: int, settings: dict[str, Any]) -> None:
        self.steps.start(f"trial {number}", settings.get("steps", self.n_steps))

    def step(self, step: int, loss: float) -> None:
        self.steps(step, loss)

    def end_trial(self, trial: FrozenTrial) -> None:
        settings = ", ".join(f"{name} {setting_text(value)}" for name, value in trial.params.items())
        what = {
            "COMPLETE": f"validation score {setting_text(trial.value)}",
            "PRUNED": f"pruned after step {trial.last_step}",
            "FAIL": "given up, as its processes were lost",
        }
        note = trial.user_attrs.get("diverged") or trial.user_attrs.get("error") or what[trial.state.name]
        self.progress.console.print(f"trial {trial.number} ({settings}): {note}")
        self.progress.advance(self.trials)

    def wait(self, n_running: int) -> None:
        self.progress.update(self.trials, status=f"waiting for {n_running} of other processes")
