"""Search for settings: processes take trials of one study until it has the requested number."""

import _thread
import math
import multiprocessing
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from metalens.data import Split, TaskDistribution
from metalens.errors import DivergenceError, MetaLensError
from metalens.evaluation import metrics_of
from metalens.experiments.arms import Objectives, arms_of, groups_of, runs_of
from metalens.experiments.experiment import versions
from metalens.experiments.recipe import Recipe
from metalens.experiments.sweeps.space import Space, with_values
from metalens.experiments.sweeps.trials import MIN_LOST_AFTER, Pruner, Trials, enter, retried
from metalens.io.provenance import commit
from metalens.metrics import METRICS
from metalens.training.hooks import Hooks, OnStep
from metalens.training.run import TrainingRun
from metalens.training.train import train

R = TypeVar("R", bound=Recipe)

LOST_AFTER = 120.0  # seconds
_PAUSE = 1.0  # seconds between two checks of the trials of other processes


@dataclass(frozen=True)
class Sweep:
    """Settings of a sweep.

    Attributes:
        recipe: with one arm.
        space: the settings to try.
        n_trials: of all processes, including earlier starts.
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
        """Check that the recipe can be swept.

        Raises:
            MetaLensError: there are several arms, no validation tasks, or settings that do not fit.
        """
        arms = arms_of(self.recipe)
        if len(arms) != 1:
            got = f"{len(arms)} ({'; '.join(map(str, arms))})"
            name = "name it, for example --learner MAML --regularizers TRLearner"
            raise MetaLensError(f"A sweep is of one arm, got {got}; {name}.")
        if not self.recipe.n_val_tasks:
            raise MetaLensError("A sweep needs validation tasks to choose settings, got n_val_tasks=0.")
        if self.recipe.machine.devices > 1:
            raise MetaLensError("A trial is trained by one process; give workers instead of devices.")
        if self.n_trials < 1:
            raise MetaLensError(f"trials must be at least 1, got {self.n_trials}.")
        if self.lost_after < MIN_LOST_AFTER:
            least = f"{MIN_LOST_AFTER:g} seconds"
            raise MetaLensError(f"lost_after must be at least {least}, got {self.lost_after}.")
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
    """Make trials until a sweep has all of them, together with other processes at the same folder.

    A trial whose process was lost or interrupted is retried. Test tasks are never drawn.

    Args:
        sweep: to run.
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
    enter(folder, content)
    threads = sweep.recipe.machine.threads or max(1, torch.get_num_threads() // workers)
    with _helpers(workers - 1, sweep, folder, metric, threads):
        _work(sweep, folder, metric, threads, watcher or SweepWatcher())


def _work(sweep: Sweep, folder: Path, metric: str, threads: int, watcher: SweepWatcher) -> None:
    """Make trials until none is left or running elsewhere."""
    direction = "maximize" if METRICS[metric].better == "higher" else "minimize"
    every, lost_after = sweep.recipe.validate_every, sweep.lost_after
    all_trials = Trials(folder, direction, sweep.pruner, every=every, lost_after=lost_after)
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
        pass  # this process was suspended for so long that its trial was considered lost
    except BaseException:
        trials.requeue(trial.number)
        raise


@contextmanager
def _helpers(n: int, *work: Any) -> Iterator[None]:
    """Run n more processes during the block, and until no trial is left."""
    helpers = [multiprocessing.get_context("spawn").Process(target=_help, args=work) for _ in range(n)]
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


def sealed(recipe: R) -> R:
    """Return the recipe without access to its test tasks, which raise a `RuntimeError`."""

    class Sealed(type(recipe)):
        def distribution(self, split: Split, seed: int) -> TaskDistribution:
            if split == "test":
                raise RuntimeError("A sweep must not see test tasks.")
            return super().distribution(split, seed)

    kind: Any = Sealed
    return kind(**{field.name: getattr(recipe, field.name) for field in fields(recipe)})


def metric_of(recipe: Recipe) -> str:
    """Return the primary metric of a recipe's first learner on the validation tasks."""
    seed = recipe.seeds[0]
    learner, tasks = arms_of(recipe)[0].build(recipe, seed).learner, recipe.distribution("val", seed)
    return metrics_of(learner, tasks, tasks[0].query.y)[0].name


def score(recipe: Recipe, trial: Trial, progress: OnStep) -> float:
    """Train the one arm of a recipe with every seed, and return the mean of the best validation scores.

    After each validation the mean over seeds is reported to the trial: the scores of the seeds in training,
    and the best ones of the seeds trained before. Outer steps are counted across seeds.

    Args:
        recipe: sealed, with the settings of the trial.
        trial: gets the scores.
        progress: called with the number of the step and its loss.

    Raises:
        TrialPruned: the trial is behind others.
        DivergenceError: the training of a seed diverged.
        MetaLensError: the recipe cannot be trained.
    """
    (arm,) = arms_of(recipe)
    fabric, objectives = recipe.machine.fabric(), Objectives(recipe)
    best: list[float] = []
    for cells in groups_of(recipe, fabric, objectives):
        runs = runs_of(recipe, cells, objectives)
        judge = _Judge(trial, recipe, runs, best, progress)
        try:
            settings = recipe.training(cells[0].seed)
            train(runs, settings, recipe.machine, fabric, hooks=Hooks(judge.look))
        except DivergenceError:
            trial.report(math.nan, judge.begin + max(run.diverged or 0 for run in runs))
            raise
        for run in runs:
            if not _scores(run):  # there was nothing to train
                run.validate(recipe.steps, is_last=True)
        best += map(_best, runs)
    if not all(map(math.isfinite, best)):
        raise DivergenceError(f"No validation score of {arm} is finite.")
    return fmean(best)


@dataclass(frozen=True)
class _Judge:
    """Reports validation scores during training, and prunes the trial."""

    trial: Trial
    recipe: Recipe
    runs: Sequence[TrainingRun]
    earlier: Sequence[float]
    progress: OnStep

    @property
    def begin(self) -> int:
        """The number of steps of earlier seeds."""
        return self.recipe.steps * len(self.earlier)

    def look(self, step: int, loss: float) -> None:
        """Report the scores of a step if it was validated."""
        self.progress(step, loss)
        if diverged := [run for run in self.runs if run.diverged is not None]:
            raise DivergenceError(f"{len(diverged)} of {len(self.runs)} seeds diverged at step {step}.")
        if self.runs[0].curve.rows[-1:] and self.runs[0].curve.rows[-1][:2] == (step, "val"):
            scores = [_scores(run)[-1] for run in self.runs]
            self.trial.report(fmean([*self.earlier, *scores]), self.begin + step)
            is_last = step == self.recipe.steps and len(self.earlier) + len(scores) == len(self.recipe.seeds)
            if not is_last and self.trial.should_prune():
                raise optuna.TrialPruned


def _scores(run: TrainingRun) -> list[float]:
    """Return the scores of all validations in the primary metric, the first one."""
    rows = [row for row in run.curve.rows if row[1] == "val"]
    return [value for _, _, metric, value in rows if metric == rows[0][2]]


def _best(run: TrainingRun) -> float:
    metric = next(metric for _, split, metric, _ in run.curve.rows if split == "val")
    best = max if METRICS[metric].better == "higher" else min
    return best(filter(math.isfinite, _scores(run)), default=math.nan)
