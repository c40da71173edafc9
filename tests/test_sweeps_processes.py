"""Sweeps shared by processes: trials that are lost or interrupted are repeated."""

import multiprocessing
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import optuna
import pytest
from small_sweep import QUICK, small_sweep

from metalens.experiments.sweeps.report import outcome_in_words, read_result
from metalens.experiments.sweeps.sweep import Sweep, SweepWatcher, search
from metalens.experiments.sweeps.trials import DATABASE, MAX_RETRIES, Trials, retried


@pytest.fixture
def sweep(tmp_path):
    """A small sweep: `sweep(space, n_trials, settings of the recipe or the sweep)`."""
    return partial(small_sweep, tmp_path)


def in_another_process(folder: Path, sweep: Sweep, watcher: str) -> subprocess.Popen:
    """Start the search in a process of its own, with a watcher given as source."""
    source = f"""
        import os, signal, time
        from dataclasses import replace
        from pathlib import Path
        from metalens.experiments import RECIPES
        from metalens.experiments.sweeps.space import read_space
        from metalens.experiments.sweeps.sweep import Sweep, SweepWatcher, search

        recipe = replace(RECIPES["demo"], **{QUICK!r})
        space = read_space(Path({sweep.space.source!r}), recipe)
        sweep = Sweep(recipe, space, {sweep.n_trials}, {sweep.pruner!r})

        class Mine(SweepWatcher):
{textwrap.indent(textwrap.dedent(watcher), " " * 12)}

        search(sweep, Path({str(folder)!r}), watcher=Mine())
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)], stderr=subprocess.PIPE, text=True
    )


def trials_of(folder: Path, lost_after: float = 60.0) -> Trials:
    """Return the trials of a sweep as another process sees them."""
    return Trials(folder, "minimize", "none", every=2, lost_after=lost_after)


@pytest.mark.slow
def test_processes_share_a_sweep_and_repeat_the_trial_of_one_that_is_killed(sweep, tmp_path):
    mine, folder = sweep(n_trials=5, lost_after=3.0), tmp_path / "s"

    class Waits(SweepWatcher):
        """Holds the first trial until the other process has made one and was killed in the next."""

        def start_trial(self, number, settings):
            assert other.wait(300) == -signal.SIGKILL, other.stderr.read()

    killed = """
        def start_trial(self, number, settings):
            self.is_last = hasattr(self, "is_last")
        def step(self, step, loss):
            if self.is_last and step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
    """
    with in_another_process(folder, mine, killed) as other:
        search(mine, folder, watcher=Waits())
    trials = read_result(folder).trials
    assert trials["state"].value_counts().to_dict() == {"complete": 5, "repeated": 1}
    assert trials[trials["state"] == "complete"]["process"].nunique() == 2
    lost = trials[trials["state"] == "repeated"].iloc[0]
    (again,) = [row for row in trials.to_dict("records") if row["note"] == f"repeats trial {lost['trial']}."]
    assert (again["outer_lr"], again["MAML.inner_lr"]) == (lost["outer_lr"], lost["MAML.inner_lr"])
    assert trials["outer_lr"].nunique() == 5
    told = outcome_in_words(read_result(folder))[1]
    assert told == "Of 5 trials: 5 trained to the end, 1 lost or interrupted and tried again."


@pytest.mark.slow
def test_workers_are_such_processes(sweep, tmp_path):
    folder = tmp_path / "s"

    class Waits(SweepWatcher):
        def start_trial(self, number, settings):
            while len(read_result(folder).trials) < 2:
                assert multiprocessing.active_children()
                time.sleep(0.3)

    search(sweep(n_trials=3), folder, workers=2, watcher=Waits())
    trials = read_result(folder).trials
    assert trials["state"].tolist() == ["complete"] * 3
    assert trials["process"].nunique() == 2
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_process_that_was_taken_for_lost_drops_its_trial(sweep, tmp_path):
    mine, folder = sweep(), tmp_path / "s"

    class Robbed(SweepWatcher):
        def step(self, step, loss):
            others = trials_of(folder)
            if len(others.study.trials) == 1 and step == 3:
                others.requeue(0)

    search(mine, folder, watcher=Robbed())
    assert read_result(folder).trials["state"].tolist() == ["repeated", *["complete"] * 3]


def test_an_interrupted_trial_is_repeated_at_once(sweep, tmp_path):
    class Interrupts(SweepWatcher):
        def step(self, step, loss):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(sweep(), tmp_path / "s", watcher=Interrupts())
    search(sweep(), tmp_path / "s")
    trials = read_result(tmp_path / "s").trials
    assert trials["state"].tolist() == ["repeated", *["complete"] * 3]
    assert trials["outer_lr"][0] == trials["outer_lr"][1]


def test_settings_that_end_processes_are_given_up(sweep, tmp_path):
    folder = tmp_path / "s"
    search(sweep(n_trials=1), folder)
    others, distributions = trials_of(folder), sweep().space.distributions
    others.study.enqueue_trial({"outer_lr": 0.01, "MAML.inner_lr": 0.05})
    for _ in range(MAX_RETRIES + 1):
        trial = others.take(2, distributions)
        assert trial.params == {"outer_lr": 0.01, "MAML.inner_lr": 0.05}
        others.requeue(trial.number)
    trials = others.study.get_trials()
    assert not [trial for trial in trials if trial.state == optuna.trial.TrialState.WAITING]
    assert retried(trials) == {1, 2}
    search(sweep(n_trials=2), folder)
    assert read_result(folder).trials["state"].tolist() == ["complete", "repeated", "repeated", "lost"]


def test_a_trial_that_ended_all_the_same_counts_beside_its_repetition():
    study = optuna.create_study()
    for number, state in enumerate(("COMPLETE", "FAIL")):
        study.ask()
        values = 1.0 if state == "COMPLETE" else None
        study.tell(number, values, state=optuna.trial.TrialState[state])
    for number in range(2):
        attributes = {"retry_history": [number]}
        study.add_trial(optuna.create_trial(state=optuna.trial.TrialState.WAITING, system_attrs=attributes))
    assert retried(study.trials) == {1}


@pytest.mark.slow
def test_a_trial_is_lost_when_its_heartbeats_are_too_old(sweep, tmp_path):
    folder, distributions = tmp_path / "s", sweep().space.distributions
    search(sweep(n_trials=1), folder)
    mine, others = trials_of(folder), trials_of(folder)
    trial = mine.take(2, distributions)
    assert others.take(2, distributions) is None
    age(folder, 59)
    assert others.take(2, distributions) is None
    age(folder, 100)
    again = others.take(2, distributions)
    assert (again.number, again.params) == (trial.number + 1, trial.params)
    assert others.take(2, distributions) is None
    age(folder, 100)
    with trials_of(folder, lost_after=3.0).heartbeat(again):
        time.sleep(1.5)
    assert mine.take(2, distributions) is None


def age(folder: Path, seconds: int) -> None:
    """Make all heartbeats this old."""
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        database.execute(f"UPDATE trial_heartbeats SET heartbeat = datetime('now', '-{seconds} seconds')")
        database.commit()


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # the trial is asked for as by another process
def test_a_trial_that_was_killed_before_its_first_heartbeat_is_retried(sweep, tmp_path):
    folder, distributions = tmp_path / "s", sweep().space.distributions
    search(sweep(n_trials=1), folder)
    lost = trials_of(folder).study.ask(distributions)
    again = trials_of(folder).take(2, distributions)
    assert (again.number, again.params) == (2, lost.params)
