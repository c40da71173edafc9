"""Suites: several studies with their settings, from the YAML files in `suites/`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from metalens.errors import MetaLensError
from metalens.experiments.loading import options_of
from metalens.experiments.store import is_complete
from metalens.experiments.workers import processes
from metalens.io.yaml import read_yaml
from metalens.specs.settings import changed
from paper.catalogue import get_study
from paper.report import write_study_report
from paper.study import Study, run_study

SUITES = {path.stem: path for path in sorted((Path(__file__).parent / "suites").glob("*.yaml"))}


def description_of(name: str) -> str:
    """Return the description of a suite."""
    return read_yaml(SUITES[name])["description"]


def read_suite(name: str, size: str) -> dict[str, Study]:
    """Return the studies of a suite by the names of their folders.

    Settings of an entry override those of its size, and those of the size of an entry override both.

    Args:
        name: one of `SUITES`.
        size: one of the suite's sizes: smoke, small or full.

    Raises:
        MetaLensError: there is no such suite or size, or a study does not have a setting.

    >>> studies = read_suite("tradeoff", "smoke")
    >>> list(studies), studies["sinusoids"].seeds
    (['sinusoids', 'harmonics', 'characters'], [0, 1])
    """
    if name not in SUITES:
        raise MetaLensError(f"There is no suite {name!r}; choose from {', '.join(SUITES)}.")
    content = read_yaml(SUITES[name])
    if size not in content["sizes"]:
        raise MetaLensError(
            f"The suite {name} has no size {size!r}; choose from {', '.join(content['sizes'])}."
        )
    studies = {}
    for entry in content["entries"]:
        own = {**entry.get("settings", {}), **content["sizes"][size], **entry.get("sizes", {}).get(size, {})}
        studies[entry.get("name", entry["study"])] = _with_settings(get_study(entry["study"]), own)
    return studies


def _with_settings(study: Study, settings: dict[str, Any]) -> Study:
    try:
        return changed(study, settings)
    except MetaLensError as error:
        raise MetaLensError(f"{study.name}: {error}") from None


def run_suite(
    studies: Mapping[str, Study], folder: Path, *, workers: int, threads: int
) -> Iterator[tuple[str, str]]:
    """Run studies in parallel processes, each into a folder of its own, and write their reports.

    A study that is complete is not run again; one that was interrupted is resumed.

    Args:
        studies: by the names of their folders.
        folder: of the suite.
        workers: studies that run at the same time.
        threads: of each.

    Yields:
        The name of each study that has ended, and why it failed; an empty text on success.
    """
    with processes(workers) as submit:
        names: dict[Future[Any], str] = {
            submit(_run, study, folder / name, threads): name for name, study in studies.items()
        }
        for future in as_completed(names):
            error = future.exception()
            yield names[future], "" if error is None else " ".join(f"{error}".split()) or repr(error)


def _run(study: Study, folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    if not is_complete(folder, asdict(study)):
        run_study(study, folder, command=command_of(study))
    write_study_report(folder)


def command_of(study: Study) -> str:
    """Return the command that runs a study with its settings.

    >>> command_of(changed(get_study("trlearner-lambda"), {"steps": 9, "seeds": [0, 1]}))
    'python -m paper run trlearner-lambda --seeds 0 1 --steps 9'
    """
    options = options_of(study, get_study(study.name))
    return shlex.join(["python", "-m", "paper", "run", study.name, *options])
