"""Search for settings: processes take trials of one study until there are as many as asked for."""

from __future__ import annotations

import _thread
import multiprocessing
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from metalens.errors import DivergenceError, MetaLensError
from metalens.experiments.arms import arms_of
from metalens.experiments.experiment import versions
from metalens.experiments.recipe import Recipe
from metalens.experiments.sweeps.space import Space, with_values
from metalens.experiments.sweeps.trial import metric_of, score, sealed
from metalens.experiments.sweeps.trials import MIN_LOST_AFTER, Pruner, Trials, enter, retried
from metalens.io.provenance import commit
from metalens.metrics import METRICS

LOST_AFTER = 120.0  # seconds
_PAUSE = 1.0  # seconds between two looks at the trials of other processes


@dataclass(frozen=True)
class Sweep:
    """Settings of a sweep.

    Attributes:
        recipe: with one arm, to be trained with the settings that are tried.
        space: the settings that are tried.
        n_trials: of all processes together, those of earlier starts included.
        pruner: which trials end early: those behind the `median` at the same step, those that successive
            `halving` drops, or `none`.
        lost_after: seconds without a heartbeat, after which the trial of a process is retried.
    """

    recipe: Recipe
    space: Space
    n_trials: int
    pruner: Pruner = "median"
    lost_after: float = LOST_AFTER

    def check(self) -> None:
        """Check that the recipe can be swept, before anything is written.

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
        if self.recipe.machine.devices > 1:
            raise MetaLensError("A trial is trained by one process; give workers instead of devices.")
        if self.n_trials < 1:
            raise MetaLensError(f"trials must be at least 1, got {self.n_trials}.")
        if self.lost_after < MIN_LOST_AFTER:
            raise MetaLensError(
                f"lost_after must be at least {MIN_LOST_AFTER:g} seconds, got {self.lost_after}."
            )
        self.space.check(sealed(self.recipe))


class SweepWatcher:
    """Progress callbacks of a sweep; no-ops by default."""

    def start_trial(self, number: int, settings: dict[str, Any]) -> None:
        """The training of a trial begins."""

    def step(self, step: int, loss: float) -> None:
        """An outer step was taken."""

    def end_trial(self, trial: FrozenTrial) -> None:
        """A trial of any process has ended, and is not retried."""

    def wait(self, n_running: int) -> None:
        """Only trials of other processes are left."""


def search(
    sweep: Sweep, folder: Path, *, workers: int = 1, command: str = "", watcher: SweepWatcher | None = None
) -> None:
    """Try settings until a sweep has all its trials, together with all other processes at the same folder.

    A trial whose process was lost or interrupted is retried. Test tasks are never drawn.

    Args:
        sweep: what is tried.
        folder: new, empty, or of the same sweep, which is joined or continued.
        workers: processes to start; all processes of a sweep are on one machine.
        command: that repeats the sweep, for its report.
        watcher: progress callbacks; steps are those of this process.

    Raises:
        MetaLensError: the recipe cannot be swept; the folder has other files, or another sweep.
    """
    sweep.check()
    metric = metric_of(sealed(sweep.recipe))
    content = {
        "metalens": version("metalens"),
        "recipe": sweep.recipe.name,
        "configuration": sweep.recipe.configuration,
        "machine": asdict(sweep.recipe.machine),
        "space": sweep.space.content,
        "pruner": sweep.pruner,
        "metric": metric,
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {**versions(), "optuna": version("optuna")},
        "commit": commit(),
    }
    enter(folder, content, _identity)
    threads = sweep.recipe.machine.threads or max(1, torch.get_num_threads() // workers)
    with _helpers(workers - 1, sweep, folder, metric, threads):
        _work(sweep, folder, metric, threads, watcher or SweepWatcher())


def _identity(content: dict[str, Any]) -> dict[str, Any]:
    """Return what all processes of a sweep must have in common."""
    return {**content["configuration"], **{name: content[name] for name in ("recipe", "space", "pruner")}}


def _work(sweep: Sweep, folder: Path, metric: str, threads: int, watcher: SweepWatcher) -> None:
    """Make trials until none is left and none is running elsewhere."""
    direction = "maximize" if METRICS[metric].better == "higher" else "minimize"
    all_trials = Trials(
        folder, direction, sweep.pruner, every=sweep.recipe.validate_every, lost_after=sweep.lost_after
    )
    reported: set[int] = set()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        while True:
            trial = all_trials.take(sweep.n_trials, sweep.space.distributions)
            if trial is not None:
                _try(all_trials, sweep, trial, watcher)
            trials = all_trials.study.get_trials(deepcopy=False)
            silent = reported | retried(trials)
            for ended in trials:
                if ended.state.is_finished() and ended.number not in silent:
                    watcher.end_trial(ended)
                    reported.add(ended.number)
            n_running = sum(trial.state == TrialState.RUNNING for trial in trials)
            if trial is None and not n_running:
                return
            if trial is None:
                watcher.wait(n_running)
                time.sleep(_PAUSE)
    finally:
        torch.set_num_threads(before)


def _try(trials: Trials, sweep: Sweep, trial: Trial, watcher: SweepWatcher) -> None:
    """Make a trial and record its result."""
    try:
        with trials.heartbeat(trial):
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
        trials.study.tell(trial, **result, skip_if_finished=True)
    except UpdateFinishedTrialError:
        pass  # this process was suspended for so long that its trial was taken for lost
    except BaseException:
        trials.requeue(trial.number)
        raise


@contextmanager
def _helpers(n: int, *work: Any) -> Iterator[None]:
    """Run n further processes during the block, and until no trial is left."""
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
    """Make trials silently; the first process reports errors that concern all."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    warnings.simplefilter("ignore")
    first = multiprocessing.parent_process()
    assert first is not None
    threading.Thread(target=_follow, args=(first,), daemon=True).start()
    with suppress(KeyboardInterrupt, MetaLensError, OSError):
        _work(sweep, folder, metric, threads, SweepWatcher())


def _follow(first: BaseProcess) -> None:
    """Interrupt this process when the first one is gone."""
    first.join()
    _thread.interrupt_main()
