"""Search for settings: processes that take trials of one study until as many as asked for are made."""

from __future__ import annotations

import _thread
import multiprocessing
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from metalens.errors import DivergenceError, MetaLensError
from metalens.experiments.arms import arms_of
from metalens.experiments.experiment import versions
from metalens.experiments.recipe import Recipe
from metalens.experiments.sweeps.journal import (
    Pruner,
    Watch,
    enter,
    heartbeat,
    open_study,
    repeated,
    requeue,
    turn,
)
from metalens.experiments.sweeps.space import Space, with_values
from metalens.experiments.sweeps.trial import metric_of, score, sealed
from metalens.io.provenance import commit
from metalens.metrics import METRICS

LOST_AFTER = 120.0  # seconds
_ELSEWHERE = ("threads", "accelerator")  # settings in which machines may differ
_PAUSE = 1.0  # seconds between two looks at what other processes do


@dataclass(frozen=True)
class Sweep:
    """What a process of a sweep has to know.

    Attributes:
        recipe: what is trained; its one arm, the first value of each list, gets the settings.
        space: the settings that are tried.
        n_trials: of all processes together, those of earlier starts included.
        pruner: which trials end early: those behind the `median` at the same step, those that successive
            `halving` drops, or `none`.
        lost_after: seconds without a sign of life, after which the trial of a process is tried again.
    """

    recipe: Recipe
    space: Space
    n_trials: int
    pruner: Pruner = "median"
    lost_after: float = LOST_AFTER

    def check(self) -> None:
        """Refuse what cannot be swept, before anything is written.

        Raises:
            MetaLensError: there are several arms, no validation tasks, or settings that do not fit.
        """
        arms = arms_of(self.recipe)
        if len(arms) != 1:
            names = "; ".join(map(str, arms))
            raise MetaLensError(
                f"A sweep is of one arm, got {len(arms)} ({names}); name it, for example "
                "--learner MAML --regularizers TRLearner."
            )
        if not self.recipe.n_val_tasks:
            raise MetaLensError(
                "A sweep needs validation tasks, by which settings are chosen, got n_val_tasks=0."
            )
        if self.recipe.devices > 1:
            raise MetaLensError("A trial is trained by one process; give workers instead of devices.")
        if self.n_trials < 1:
            raise MetaLensError(f"trials must be at least 1, got {self.n_trials}.")
        if self.lost_after < 1:
            raise MetaLensError(f"lost_after must be at least 1 second, got {self.lost_after}.")
        self.space.check(sealed(self.recipe))


class Watcher:
    """Told what a sweep is doing; does nothing unless overridden."""

    def start_trial(self, number: int, settings: dict[str, Any]) -> None:
        """Training begins."""

    def step(self, step: int, loss: float) -> None:
        """An outer step was taken."""

    def end_trial(self, trial: FrozenTrial) -> None:
        """A trial of any process has ended, and is not to be repeated."""

    def wait(self, n_running: int) -> None:
        """Nothing is left but to wait for the trials of other processes."""


def search(
    sweep: Sweep, folder: Path, *, workers: int = 1, command: str = "", watcher: Watcher | None = None
) -> None:
    """Try settings until a sweep has all its trials, together with all other processes at the same folder.

    A trial whose process was lost or interrupted is repeated. Test tasks are never drawn.

    Args:
        sweep: what is tried.
        folder: new, empty, or that of the same sweep, which is joined or gone on with.
        workers: processes on this machine.
        command: that repeats the sweep, for its report.
        watcher: told about progress, that of the trials of this process step by step.

    Raises:
        MetaLensError: something cannot be swept; the folder has something else, or another sweep.
    """
    sweep.check()
    metric = metric_of(sealed(sweep.recipe))
    content = {
        "metalens": version("metalens"),
        "recipe": sweep.recipe.name,
        "configuration": asdict(replace(sweep.recipe, workers=1)),
        "space": sweep.space.content,
        "pruner": sweep.pruner,
        "metric": metric,
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {**versions(), "optuna": version("optuna")},
        "commit": commit(),
    }
    enter(folder, content, _identity)
    threads = sweep.recipe.threads or max(1, torch.get_num_threads() // workers)
    with _helpers(workers - 1, sweep, folder, metric, threads):
        _work(sweep, folder, metric, threads, watcher or Watcher())


def _identity(content: dict[str, Any]) -> dict[str, Any]:
    """Return what all processes of a sweep must have in common."""
    configuration = {
        name: value for name, value in content["configuration"].items() if name not in _ELSEWHERE
    }
    return {**configuration, **{name: content[name] for name in ("recipe", "space", "pruner")}}


def _work(sweep: Sweep, folder: Path, metric: str, threads: int, watcher: Watcher) -> None:
    """Take trials, until none is left and none is running elsewhere."""
    direction = "maximize" if METRICS[metric].better == "higher" else "minimize"
    study = open_study(folder, direction, sweep.pruner, sweep.recipe.validate_every)
    watch, told = Watch(sweep.lost_after), set()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        while True:
            trial = _next(study, sweep, folder, watch)
            if trial is not None:
                _try(study, sweep, trial, watcher)
            trials = study.get_trials(deepcopy=False)
            silent = told | repeated(trials)
            for ended in trials:
                if ended.state.is_finished() and ended.number not in silent:
                    watcher.end_trial(ended)
                    told.add(ended.number)
            n_running = sum(trial.state == TrialState.RUNNING for trial in trials)
            if trial is None and not n_running:
                return
            if trial is None:
                watcher.wait(n_running)
                time.sleep(_PAUSE)
    finally:
        torch.set_num_threads(before)


def _next(study: optuna.Study, sweep: Sweep, folder: Path, watch: Watch) -> Trial | None:
    """Return the trial that is due, those of lost processes included; `None` if all are made or running."""
    with turn(folder):
        for lost in watch.lost(study.get_trials(deepcopy=False)):
            requeue(study, lost, lost=True)
        trials = study.get_trials(deepcopy=False)
        is_waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if not is_waiting and len(trials) - len(repeated(trials)) >= sweep.n_trials:
            return None
        # By the number, so that processes which begin together do not try the same.
        study.sampler = TPESampler(seed=len(trials))
        return study.ask(sweep.space.distributions)


def _try(study: optuna.Study, sweep: Sweep, trial: Trial, watcher: Watcher) -> None:
    """Make a trial, and write down what comes of it."""
    try:
        with heartbeat(trial, sweep.lost_after):
            trial.set_user_attr("process", f"{socket.gethostname()}, {os.getpid()}")
            watcher.start_trial(trial.number, trial.params)
            try:
                recipe = sealed(with_values(sweep.recipe, trial.params))
                result: dict[str, Any] = {"values": score(recipe, trial, watcher.step)}
            except optuna.TrialPruned:
                result = {"state": TrialState.PRUNED}
            except DivergenceError as error:
                trial.set_user_attr("diverged", str(error))
                result = {"state": TrialState.PRUNED}
            except MetaLensError as error:
                trial.set_user_attr("error", str(error))
                result = {"state": TrialState.FAIL}
        study.tell(trial, **result, skip_if_finished=True)
    except UpdateFinishedTrialError:
        pass  # this process was silent for so long that another one has taken over
    except BaseException:
        requeue(study, trial, lost=False)
        raise


@contextmanager
def _helpers(n: int, *work: Any) -> Iterator[None]:
    """Have further processes at work within the block, and until they find nothing left to do."""
    context = multiprocessing.get_context("spawn")
    helpers = [context.Process(target=_help, args=work) for _ in range(n)]
    try:
        for helper in helpers:
            helper.start()
        yield
    except BaseException:
        for helper in helpers:
            helper.terminate()
        raise
    finally:
        for helper in helpers:
            helper.join()


def _help(sweep: Sweep, folder: Path, metric: str, threads: int) -> None:
    """Work silently; what goes wrong for all, the first process tells."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    warnings.simplefilter("ignore")
    first = multiprocessing.parent_process()
    assert first is not None
    threading.Thread(target=_follow, args=(first,), daemon=True).start()
    with suppress(KeyboardInterrupt, MetaLensError, OSError):
        _work(sweep, folder, metric, threads, Watcher())


def _follow(first: BaseProcess) -> None:
    """Interrupt this process when the first one is gone."""
    first.join()
    _thread.interrupt_main()
