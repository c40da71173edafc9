"""`metalens run NAME`: train, test, compare, report; for a recipe, or for a study of several."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jsonargparse import ActionYesNo, ArgumentParser, Namespace
from rich.console import Console
from rich.progress import Progress

from metalens.cli.launch import other_processes
from metalens.cli.progress import StepBar, progress_bars
from metalens.cli.report import show
from metalens.errors import MetaLensError
from metalens.execution.plan import Execution
from metalens.experiments import RECIPES, Recipe
from metalens.experiments.arms import Arm, Cell, arms_of
from metalens.experiments.experiment import Watcher, explain, run
from metalens.experiments.recipe import FIXED
from metalens.experiments.store import is_complete
from metalens.experiments.trackers import TrackerName
from metalens.io.files import new_folder
from metalens.io.yaml import read_yaml
from metalens.specs.settings import changed
from paper import STUDIES, get_study

if TYPE_CHECKING:
    from paper.study import Study

E = TypeVar("E", bound="Recipe | Study")

# Fields that take several values: `--seeds 0 1 2`.
LISTS: dict[str, tuple[type, str]] = {
    "learner": (str, "Learners to compare, for example MAML 'MAML(inner_lr=0.1, inner_steps=5)'."),
    "regularizers": (str, "Arms to compare, for example none TRLearner 'TRLearner(weight=0.3)'."),
    "sampler": (str, "Task samplers to compare, for example Uniform 'Related(anchors=2, neighbors=3)'."),
    "seeds": (int, "One replication each."),
    "domains": (str, "Data sets to train on, by their names in `metalens data list`."),
    "unseen": (str, "Data sets to test on that are not trained on."),
    "hidden": (int, "Sizes of the hidden layers."),
    "weights": (float, "Strengths of TRLearner's term to compare."),
    "heads": (int, "Numbers of heads to compare."),
    "meta_batches": (int, "Numbers of tasks per outer step to compare."),
    "depths": (int, "Numbers of meta-layers to compare."),
    "samplers": (str, "Task samplers to compare."),
    "baselines": (str, "Learners that train on each task alone."),
    "related_by": (str, "Kinds of relations to compare."),
    "controls": (str, "Controls to train, by the name of their relations or regularizer, or more_steps."),
    "spreads": (float, "Spreads of the latent numbers of the tasks, 0 to 1."),
    "samples": (int, "Numbers of examples per task."),
    "tasks": (int, "Numbers of tasks."),
    "similarities": (float, "Cosines between the directions of two tasks, 0 to 1."),
}
OWN = {"out", "overwrite", "resume", "checkpoint_every", "explain", "tracker"}  # settings of the command


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the recipes with their settings to the command's parser.

    Raises:
        MetaLensError: something is wrong with the configuration file that the words name.
    """
    check_config(words, OWN)
    parser.description = "Run a recipe or a study; `metalens list` describes them."
    commands = parser.add_subcommands(dest="experiment")
    for recipe in RECIPES.values():
        commands.add_subcommand(recipe.name, _parser(recipe), help=recipe.description)
    for name, (_, description) in STUDIES.items():
        known = _parser(get_study(name)) if words[1:2] == [name] else ArgumentParser(exit_on_error=False)
        commands.add_subcommand(name, known, help=description)


def check_config(words: list[str], own: set[str]) -> None:
    """Say what is wrong with a configuration file, in clearer words than the parser's.

    Args:
        words: of the command, the second one being a recipe or study.
        own: settings of the command.

    Raises:
        MetaLensError: something is wrong.
    """
    if len(words) < 2 or words[1] not in {*RECIPES, *STUDIES}:
        return
    experiment = _experiment(words[1])
    known = {field.name for field in fields(experiment)} - {*FIXED} | own
    lists = _list_fields(experiment)
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, _, value = word.partition("=")
        if option != "--config":
            continue
        path = Path(value or following)
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise MetaLensError(f"{path} must hold settings, one `name: value` a line.")
        if unknown := [str(name) for name in content if name not in known]:
            raise MetaLensError(
                f"{path} has settings that {experiment.name} does not know: {', '.join(unknown)}; "
                "--print_config shows all."
            )
        if single := [name for name in lists if not isinstance(content.get(name, []), list)]:
            raise MetaLensError(f"{path}: {', '.join(single)} must be a list, such as [a, b].")


def _experiment(name: str) -> Recipe | Study:
    return RECIPES[name] if name in RECIPES else get_study(name)


def _list_fields(experiment: Recipe | Study) -> list[str]:
    return [field.name for field in fields(experiment) if isinstance(getattr(experiment, field.name), list)]


def _parser(experiment: Recipe | Study) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, description=experiment.description)
    parser.add_argument("--config", action="config", help="YAML file with any of these settings.")
    parser.add_argument(
        "--out", type=str, default=f"runs/{experiment.name}", help="Folder for everything the run writes."
    )
    parser.add_argument(
        "--overwrite", action=ActionYesNo, default=False, help="Replace the run in the folder."
    )
    parser.add_argument(
        "--resume", action=ActionYesNo, default=False, help="Go on with the run that was interrupted there."
    )
    if isinstance(experiment, Recipe):
        parser.add_argument(
            "--checkpoint_every", type=float, default=60.0, help="Seconds between checkpoints of a training."
        )
        parser.add_argument(
            "--tracker", type=TrackerName, nargs="*", default=[],
            help="Trackers that get a run for each arm and seed; metrics.csv is always written.",
        )  # fmt: skip
        parser.add_argument(
            "--explain", action=ActionYesNo, default=False, help="Only show how training would be executed."
        )
    add_settings(parser, experiment)
    return parser


def add_settings(parser: ArgumentParser, experiment: Recipe | Study) -> None:
    """Add the settings of a recipe or study to a parser."""
    lists = _list_fields(experiment)
    for name in lists:
        kind, text = LISTS[name]
        parser.add_argument(f"--{name}", type=kind, nargs="*", help=text)
    parser.add_class_arguments(type(experiment), skip={*FIXED, *lists})
    defaults = asdict(experiment)
    parser.set_defaults({name: defaults[name] for name in _names(experiment)})


def with_settings(experiment: E, choices: Namespace) -> E:
    """Return a recipe or study with the settings that were given.

    Raises:
        MetaLensError: a setting that needs a value has none, or is out of range.
    """
    values = choices.as_dict()
    return changed(experiment, {name: values[name] for name in _names(experiment)})


def _names(experiment: Recipe | Study) -> list[str]:
    return [field.name for field in fields(experiment) if field.name not in FIXED]


def execute(settings: Namespace, words: list[str]) -> None:
    """Run the recipe or study with these settings and show the results."""
    experiment, choices = _experiment(settings.experiment), settings[settings.experiment]
    chosen = with_settings(experiment, choices)
    out = Path(choices.out or f"runs/{experiment.name}")
    identity = chosen.identity if isinstance(chosen, Recipe) else asdict(chosen)
    if choices.resume and not choices.overwrite and is_complete(out, identity):
        show(out)
        return
    if not isinstance(chosen, Recipe):
        _run_study(chosen, out, choices, words)
        return
    if choices.explain:
        for arm, execution in explain(chosen):
            Console().print(f"{arm}: {execution}", highlight=False, markup=False, soft_wrap=True)
        return
    with other_processes(chosen.machine.devices, words) as rank:
        if rank > 0:
            run(chosen, None, checkpoint_every=choices.checkpoint_every)
            return
        with _folder(out, choices) as folder, progress_bars(Console()) as progress:
            watcher = LiveProgress(progress, len(arms_of(chosen)) * len(chosen.seeds))
            # Slow to import, so only under the progress bar; but before the run, lest it fails after hours.
            from metalens.reports import write_report

            command = shlex.join(["metalens", *words])
            every = choices.checkpoint_every
            run(chosen, folder, command=command, watcher=watcher, checkpoint_every=every,
                trackers=choices.tracker)  # fmt: skip
            write_report(folder)
    show(out)


def _folder(out: Path, choices: Namespace) -> AbstractContextManager[Path]:
    return new_folder(out, overwrite=choices.overwrite, resume=choices.resume)


def _run_study(chosen: Study, out: Path, choices: Namespace, words: list[str]) -> None:
    from paper.report import write_study_report
    from paper.study import run_study

    with _folder(out, choices) as folder, progress_bars(Console()) as progress:
        watcher = LiveProgress(progress, chosen.n_trainings)
        run_study(chosen, folder, command=shlex.join(["metalens", *words]), watcher=watcher)
        write_study_report(folder)
    show(out)


class LiveProgress(Watcher):
    """Shows the whole experiment and the current training, with its loss and speed."""

    def __init__(self, progress: Progress, n_cells: int) -> None:
        self.progress = progress
        self.executions: dict[Arm, Execution] = {}
        self.cells = progress.add_task("all runs", total=n_cells, status="")
        self.steps = StepBar(progress)

    def start_training(self, cells: Sequence[Cell], steps: int) -> None:
        self.steps.start(_training(cells), steps)

    def execution(self, cells: Sequence[Cell], execution: Execution) -> None:
        arms = dict.fromkeys(cell.arm for cell in cells)
        is_told = execution.seconds or execution.chunk
        if is_told and any(self.executions.get(arm) != execution for arm in arms):
            who = ", ".join(map(str, arms))
            self.progress.console.print(f"{who}: steps by {execution}", highlight=False, markup=False)
            self.executions |= dict.fromkeys(arms, execution)

    def step(self, step: int, loss: float) -> None:
        self.steps(step, loss)

    def end_cell(self, cell: Cell, scores: dict[str, float], diverged: int | None) -> None:
        text = ", ".join(f"{metric} {score:.4f}" for metric, score in scores.items())
        end = "" if diverged is None else f"diverged at step {diverged}; "
        self.progress.console.print(f"{_training([cell])}: {end}test {text}", highlight=False, markup=False)
        self.progress.advance(self.cells)


def _training(cells: Sequence[Cell]) -> str:
    """Return what is trained: `MAML, seed 0`, `MAML, 3 seeds`, `2 arms, 3 seeds`."""
    arms, seeds = ({cell[i] for cell in cells} for i in range(2))
    who = str(cells[0].arm) if len(arms) == 1 else f"{len(arms)} arms"
    return f"{who}, " + (f"seed {cells[0].seed}" if len(seeds) == 1 else f"{len(seeds)} seeds")
