"""`python -m paper run STUDY`: run a study, write its report, and print what was found."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from metalens.cli.run import LISTS, LiveProgress, add_settings, check_config, experiment_parser, with_settings
from metalens.experiments.store import is_complete
from metalens.io.files import new_folder
from metalens.training.progress import progress_bars
from paper import STUDIES, get_study
from paper.cli.report import show
from paper.report import write_study_report
from paper.study import Study, run_study

STUDY_LISTS: dict[str, tuple[type, str]] = {
    **LISTS,
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
OWN = {"out", "overwrite", "resume"}  # settings of the command


def add_arguments(parser: ArgumentParser, words: list[str]) -> None:
    """Add the studies to the command's parser, with the settings of the one that is named.

    Raises:
        MetaLensError: something is wrong with the configuration file that the words name.
    """
    parser.description = "Run a study; `python -m paper list` describes them."
    commands = parser.add_subcommands(dest="study")
    for name, (_, description) in STUDIES.items():
        command = ArgumentParser(exit_on_error=False)
        if words[1:2] == [name]:
            study = get_study(name)
            check_config(words, study, OWN)
            command = study_parser(study)
        commands.add_subcommand(name, command, help=description)


def study_parser(study: Study) -> ArgumentParser:
    """Return the parser of a study's settings."""
    parser = experiment_parser(study)
    add_settings(parser, study, STUDY_LISTS)
    return parser


def execute(settings: Namespace, words: list[str]) -> None:
    """Run the study with these settings and print what was found."""
    choices = settings[settings.study]
    study = with_settings(get_study(settings.study), choices)
    out = Path(choices.out)
    if not (choices.resume and not choices.overwrite and is_complete(out, asdict(study))):
        folder = new_folder(out, overwrite=choices.overwrite, resume=choices.resume)
        with folder as staged, progress_bars(Console()) as progress:
            watcher = LiveProgress(progress, study.n_trainings)
            run_study(study, staged, command=shlex.join(["python", "-m", "paper", *words]), watcher=watcher)
            write_study_report(staged)
    show(out)
