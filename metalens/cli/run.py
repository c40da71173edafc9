"""`metalens run RECIPE`: train, test, compare, report."""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ActionYesNo, ArgumentParser, Namespace
from rich.progress import Progress

from metalens.cli.progress import say
from metalens.cli.report import show
from metalens.errors import MetaLensError
from metalens.execution.plan import Execution
from metalens.experiments import RECIPES, Recipe, find_recipe
from metalens.experiments.arms import Arm, Cell, arms_of, cells_label
from metalens.experiments.experiment import Watcher, explain, run
from metalens.experiments.recipe import FIXED
from metalens.experiments.store import is_complete
from metalens.experiments.trackers import TrackerName
from metalens.io.files import new_folder
from metalens.io.yaml import read_yaml
from metalens.specs.outside import file_name
from metalens.specs.settings import changed
from metalens.training.progress import StepBar, progress_bars

E = TypeVar("E")

# Fields that take several values: `--seeds 0 1 2`.
LISTS: dict[str, tuple[type, str]] = {
    "learner": (str, "Learners to compare, for example MAML 'MAML(inner_lr=0.1, inner_steps=5)'."),
    "regularizers": (str, "Arms to compare, for example none TRLearner 'TRLearner(weight=0.3)'."),
    "sampler": (str, "Task samplers to compare, for example Uniform 'Related(anchors=2, neighbors=3)'."),
    "seeds": (int, "One replication each."),
    "domains": (str, "Data sets to train on, by their names in `metalens data list`."),
    "unseen": (str, "Data sets to test on that are not trained on."),
    "hidden": (int, "Sizes of the hidden layers."),
}
OWN = {"out", "overwrite", "resume", "checkpoint_every", "explain", "tracker"}  # settings of the command


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the recipes with their settings to the command's parser."""
    parser.description = "Run a recipe; `metalens list` describes them."
    add_recipes(parser, words, "experiment", OWN, _parser)


def add_recipes(
    parser: ArgumentParser, words: list[str], dest: str, own: set[str], make: Callable[..., ArgumentParser]
) -> None:
    """Add a subcommand for each recipe, with the settings and the checked file of the one in `words`.

    Raises:
        MetaLensError: the configuration file is malformed, or a recipe from outside is none.
    """
    commands = parser.add_subcommands(dest=dest)
    named = words[1] if len(words) > 1 else ""
    known = dict(RECIPES) if named in RECIPES else RECIPES.everything()
    if ":" in named or named in known:
        known[named] = find_recipe(named)
    for name, recipe in known.items():
        command = ArgumentParser(exit_on_error=False)
        if name == named:
            check_config(words, recipe, own)
            command = make(recipe)
        commands.add_subcommand(name, command, help=recipe.description)


def check_config(words: list[str], experiment: Any, own: set[str]) -> None:
    """Check the configuration file of a command, with clearer messages than the parser's.

    Args:
        words: the arguments of the command.
        experiment: the recipe whose settings the file may have.
        own: settings of the command itself.

    Raises:
        MetaLensError: the file is malformed.
    """
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


def _list_fields(experiment: Any) -> list[str]:
    return [field.name for field in fields(experiment) if isinstance(getattr(experiment, field.name), list)]


def _parser(recipe: Recipe) -> ArgumentParser:
    parser = experiment_parser(recipe)
    # fmt: off
    add = parser.add_argument
    add("--checkpoint_every", type=float, default=60.0, help="Seconds between checkpoints of a training.")
    add("--tracker", type=TrackerName, nargs="*", default=[],
        help="Experiment trackers, with a run for each arm and seed; metrics.csv is always written.")
    add("--explain", action=ActionYesNo, default=False,
        help="Only show how training would be executed, and end.")
    # fmt: on
    add_settings(parser, recipe)
    return parser


def experiment_parser(experiment: Any) -> ArgumentParser:
    """Return a parser with the options of every command that runs an experiment into a folder."""
    parser = ArgumentParser(exit_on_error=False, description=experiment.description)
    # fmt: off
    add = parser.add_argument
    add("--config", action="config", help="YAML file with any of these settings.")
    add("--out", type=str, default=_folder_of(experiment), help="Folder for everything the run writes.")
    add("--overwrite", action=ActionYesNo, default=False, help="Replace the run in the folder.")
    add("--resume", action=ActionYesNo, default=False, help="Resume the interrupted run in the folder.")
    # fmt: on
    return parser


def _folder_of(experiment: Any) -> str:
    return f"runs/{file_name(experiment.name)}"


def add_settings(
    parser: ArgumentParser, experiment: Any, list_settings: Mapping[str, tuple[type, str]] = LISTS
) -> None:
    """Add the settings of a recipe to a parser.

    Args:
        parser: gets one option for each setting.
        experiment: the recipe, whose values become the defaults.
        list_settings: type of an entry and help text of each setting that is a list.
    """
    lists = _list_fields(experiment)
    for name in lists:
        kind, text = list_settings[name]
        parser.add_argument(f"--{name}", type=kind, nargs="*", help=text)
    parser.add_class_arguments(type(experiment), skip={*FIXED, *lists})
    defaults = asdict(experiment)
    parser.set_defaults({name: defaults[name] for name in _names(experiment)})


def with_settings(experiment: E, choices: Namespace) -> E:
    """Return a recipe with the settings that were given.

    Raises:
        MetaLensError: a setting that needs a value has none, or is out of range.
    """
    values = choices.as_dict()
    return changed(experiment, {name: values[name] for name in _names(experiment)})


def _names(experiment: Any) -> list[str]:
    return [field.name for field in fields(experiment) if field.name not in FIXED]


def execute(settings: Namespace, words: list[str]) -> None:
    """Run the recipe with these settings and show the results."""
    recipe, choices = find_recipe(settings.experiment), settings[settings.experiment]
    chosen = with_settings(recipe, choices)
    out = Path(choices.out or _folder_of(recipe))
    if choices.resume and not choices.overwrite and is_complete(out, chosen.identity):
        show(out)
        return
    if choices.explain:
        for arm, execution in explain(chosen):
            say(f"{arm}: {execution}")
        return
    every = choices.checkpoint_every
    if _rank(chosen.machine.devices) > 0:
        run(chosen, None, checkpoint_every=every)
        return
    folder = new_folder(out, overwrite=choices.overwrite, resume=choices.resume)
    with folder as staged, progress_bars() as progress:
        watcher = LiveProgress(progress, len(arms_of(chosen)) * len(chosen.seeds))
        # Slow to import, so under the progress bar; before the run, so that it cannot fail after hours.
        from metalens.reports import write_report

        command = shlex.join(["metalens", *words])
        run(chosen, staged, command=command, watcher=watcher, checkpoint_every=every,
            trackers=choices.tracker)  # fmt: skip
        write_report(staged)
    show(out)


def _rank(devices: int) -> int:
    """Return the rank of this process among those started by `torchrun`; 0 without it.

    Raises:
        MetaLensError: the number of processes on this machine is not `devices`.
    """
    started = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if started != devices:
        raise MetaLensError(
            f"devices is {devices}, and {started} process{' was' if started == 1 else 'es were'} started on "
            f"this machine; start `torchrun --nproc-per-node {max(started, devices)} -m metalens run ... "
            f"--machine.devices {max(started, devices)}`."
        )
    return int(os.environ.get("RANK", 0))


class LiveProgress(Watcher):
    """Shows the whole experiment and the current training, with its loss and speed."""

    def __init__(self, progress: Progress, n_cells: int) -> None:
        self.progress = progress
        self.executions: dict[Arm, Execution] = {}
        self.cells = progress.add_task("all runs", total=n_cells, status="")
        self.steps = StepBar(progress)

    def start_training(self, cells: Sequence[Cell], steps: int) -> None:
        self.steps.start(cells_label(cells), steps)

    def execution(self, cells: Sequence[Cell], execution: Execution) -> None:
        arms = dict.fromkeys(cell.arm for cell in cells)
        is_measured = execution.seconds or execution.chunk
        if is_measured and any(self.executions.get(arm) != execution for arm in arms):
            self.progress.console.print(f"{', '.join(map(str, arms))}: steps by {execution}")
            self.executions |= dict.fromkeys(arms, execution)

    def step(self, step: int, loss: float) -> None:
        self.steps(step, loss)

    def end_cell(self, cell: Cell, scores: dict[str, float], diverged: int | None) -> None:
        text = ", ".join(f"{metric} {score:.4f}" for metric, score in scores.items())
        end = "" if diverged is None else f"diverged at step {diverged}; "
        self.progress.console.print(f"{cells_label([cell])}: {end}test {text}")
        self.progress.advance(self.cells)
