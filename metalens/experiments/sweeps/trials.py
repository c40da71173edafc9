"""The folder of a sweep: its description, and the database of trials that its processes share."""

import json
import os
import socket
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from metalens.errors import MALFORMED, MetaLensError, reraise_as
from metalens.io.files import SWEEP, atomic_path, writable_folder
from metalens.io.json import read_json
from metalens.training.checkpoint import differences

Pruner = Literal["median", "halving", "none"]

DATABASE = "trials.db"
MAX_RETRIES = 2  # of the same settings, which may be what kills the processes
MIN_LOST_AFTER = 3.0  # seconds; heartbeats have whole seconds
_NAME = "sweep"
_LOCK = ".lock"
_N_HEARTBEATS = 6  # in the time after which a process counts as lost
_TIMEOUT = 60.0  # seconds to wait for another process that writes
_LAYOUT = {
    **dict.fromkeys(("metalens", "recipe", "pruner", "metric", "command", "started"), str),
    **dict.fromkeys(("configuration", "machine", "space", "versions"), dict),
    "commit": (str, type(None)),
}


def enter(folder: Path, content: dict[str, Any]) -> None:
    """Start a sweep with this description in a folder, or join the existing one.

    Raises:
        MetaLensError: the folder has other files, or another sweep.
    """
    names = [path.name for path in writable_folder(folder).iterdir() if path.name[0] != "."]
    if names and SWEEP not in names:
        raise MetaLensError(f"{folder} is no folder of a sweep and not empty; choose another --out.")
    with FileLock(folder / _LOCK):
        if (folder / SWEEP).is_file():
            if changes := differences(_identity(read_sweep(folder)), _identity(content)):
                raise MetaLensError(
                    f"{folder} is of another sweep: {changes}; make both alike, or choose another --out."
                )
        else:
            with atomic_path(folder / SWEEP) as path:
                path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _identity(content: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a description that all processes of a sweep must share."""
    return {**content["configuration"], **{name: content[name] for name in ("recipe", "space", "pruner")}}


def read_sweep(folder: Path) -> dict[str, Any]:
    """Return the description of the sweep in a folder.

    Raises:
        MetaLensError: the file is missing or damaged.
    """
    return read_json(folder / SWEEP, "sweep into another folder", _LAYOUT)


def read_study(folder: Path) -> optuna.Study | None:
    """Return the Optuna study of a sweep, to read; `None` before it exists.

    Raises:
        MetaLensError: the database is damaged.
    """
    path = folder / DATABASE
    if not path.is_file():
        return None
    with FileLock(folder / _LOCK), reraise_damage(path):
        storage = _storage(path)
        is_begun = _NAME in optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=_NAME, storage=storage) if is_begun else None


def reraise_damage(path: Path) -> AbstractContextManager[None]:
    """Re-raise the errors of a malformed file in the block as one `MetaLensError`."""
    kinds = (*MALFORMED, SQLAlchemyError, StorageInternalError)
    return reraise_as(f"{path} is damaged", "sweep into another folder", kinds)


def retried(trials: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers of the trials of a study that others retry; those with a result still count."""
    numbers = {number for trial in trials if (number := retry_of(trial)) is not None}
    return {number for number in numbers if trials[number].state in (TrialState.RUNNING, TrialState.FAIL)}


def retry_of(trial: FrozenTrial) -> int | None:
    """Return the number of the trial that a trial retries; `None` if it is no retry."""
    return trial.system_attrs.get("retry_history", [None])[-1]


class Trials:
    """The trials of a sweep, shared by any number of processes on one machine.

    Args:
        folder: of the sweep.
        direction: minimize or maximize.
        pruner: see `Sweep`.
        every: outer steps between two validations.
        lost_after: see `Sweep`.

    Raises:
        MetaLensError: the database is damaged.
    """

    def __init__(
        self, folder: Path, direction: str, pruner: Pruner, *, every: int, lost_after: float
    ) -> None:
        pruners: dict[Pruner, BasePruner] = {
            "median": MedianPruner(),
            "halving": SuccessiveHalvingPruner(min_resource=every),
            "none": NopPruner(),
        }
        self.lock = FileLock(folder / _LOCK)
        self.every = max(1, int(lost_after / _N_HEARTBEATS))
        with self.lock, reraise_damage(folder / DATABASE), _quiet():
            self.retry = RetryHeartbeatStaleTrialCallback(MAX_RETRIES)
            self.storage = _storage(
                folder / DATABASE,
                heartbeat_interval=self.every,
                grace_period=int(lost_after),
                heartbeat_stale_trial_callback=self.retry,
            )
            options = {"direction": direction, "pruner": pruners[pruner], "load_if_exists": True}
            self.study = optuna.create_study(study_name=_NAME, storage=self.storage, **options)

    def take(self, n_trials: int, distributions: Mapping[str, BaseDistribution]) -> Trial | None:
        """Return the next of `n_trials` trials, a retry first; `None` if all are done or running."""
        with self.lock, _quiet():
            fail_stale_trials(self.study)
            for trial in self.study.get_trials(deepcopy=False):
                # Killed before its first heartbeat, without which no trial is stale.
                if trial.state == TrialState.RUNNING and trial.user_attrs.get("begun") != trial.number:
                    self.requeue(trial.number)
            trials = self.study.get_trials(deepcopy=False)
            is_waiting = any(trial.state == TrialState.WAITING for trial in trials)
            if not is_waiting and len(trials) - len(retried(trials)) >= n_trials:
                return None
            # Seeded by the number, so that processes that start together draw different values.
            self.study.sampler = TPESampler(seed=len(trials))
            trial = self.study.ask(dict(distributions))
            self.storage.record_heartbeat(self._id(trial))
            trial.set_user_attr("process", f"{socket.gethostname()}, {os.getpid()}")
            trial.set_user_attr("begun", trial.number)
            return trial

    @contextmanager
    def heartbeat(self, trial: Trial) -> Iterator[None]:
        """Record heartbeats of a trial during the block."""
        over, trial_id = Event(), self._id(trial)

        def beat() -> None:
            while not over.wait(self.every):
                with suppress(SQLAlchemyError, StorageInternalError):  # the trial raises it as well
                    self.storage.record_heartbeat(trial_id)

        thread = Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def requeue(self, number: int) -> None:
        """End a running trial without a result, and queue a trial with its settings."""
        trials = self.study.get_trials()
        if trials[number].state == TrialState.RUNNING:
            # In this order, a kill in between does not lose the trial.
            if number not in retried(trials):
                self.retry(self.study, trials[number])
            self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def _id(self, trial: Trial) -> int:
        study_id = self.storage.get_study_id_from_name(_NAME)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)


def _storage(path: Path, **settings: Any) -> RDBStorage:
    def connect() -> sqlite3.Connection:  # a URL could not hold every path
        return sqlite3.connect(path, timeout=_TIMEOUT, check_same_thread=False)

    return RDBStorage(f"sqlite:///{DATABASE}", engine_kwargs={"creator": connect}, **settings)


def _quiet() -> AbstractContextManager[Any]:
    """Silence Optuna's warnings that heartbeats are experimental, and meant for `Study.optimize`.

    `optimize` itself raises `Cannot tell a FAIL trial` for a trial that was considered lost.
    """
    return warnings.catch_warnings(action="ignore")
