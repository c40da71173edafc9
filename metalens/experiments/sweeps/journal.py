"""The folder of a sweep: what it is of, and the journal that its processes share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from metalens.errors import MetaLensError, in_one_sentence
from metalens.io.files import SWEEP, atomic_path, writable_folder
from metalens.io.json import read_json
from metalens.training.checkpoint import differences

Pruner = Literal["median", "halving", "none"]

JOURNAL = "journal.log"
NAME = "sweep"
MOST_LOSSES = 2  # of processes at the same settings, which may be what ends them
_TURN = "turn"
_WRITTEN = {
    **dict.fromkeys(("metalens", "recipe", "pruner", "metric", "command", "started"), str),
    **dict.fromkeys(("configuration", "machine", "space", "versions"), dict),
    "commit": (str, type(None)),
}
# No RuntimeError: that is what a lock of the journal raises.
_DAMAGE = (ArithmeticError, ValueError, LookupError, TypeError, AttributeError, AssertionError)
_OFTEN = 6  # signs of life in the time after which a process counts as lost


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Let one process at a time decide what is tried next; a process killed meanwhile is waited for 30 s."""
    with _held(folder / _TURN):
        yield


@contextmanager
def _held(path: Path) -> Iterator[None]:
    # A file that must not exist is what every system and shared folder can agree on.
    lock = JournalFileOpenLock(str(path))
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def enter(
    folder: Path, content: dict[str, Any], identity: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Make a folder that of a sweep, or join the sweep that is in it.

    Args:
        folder: where the sweep is.
        content: what is written of it, as plain values by name.
        identity: picks from this what all processes must have in common.

    Raises:
        MetaLensError: the folder has something else, or another sweep.
    """
    with turn(writable_folder(folder)):
        if (folder / SWEEP).is_file():
            if changes := differences(identity(read_sweep(folder)), identity(content)):
                raise MetaLensError(
                    f"{folder} is of another sweep: {changes}; make both alike, or choose another --out."
                )
        elif any(not path.name.startswith(_TURN) for path in folder.iterdir()):
            raise MetaLensError(f"{folder} is no folder of a sweep and not empty; choose another --out.")
        else:
            with atomic_path(folder / SWEEP) as path:
                path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_sweep(folder: Path) -> dict[str, Any]:
    """Return what is written of the sweep in a folder.

    Raises:
        MetaLensError: the file is missing or damaged.
    """
    return read_json(folder / SWEEP, "sweep into another folder", _WRITTEN)


def open_study(folder: Path, direction: str, pruner: Pruner, every: int) -> optuna.Study:
    """Return the study of a sweep to work on, which is begun where there is none.

    Args:
        folder: of the sweep.
        direction: minimize or maximize.
        pruner: which trials end early.
        every: outer steps between two validations.
    """
    path = folder / JOURNAL
    pruners: dict[Pruner, BasePruner] = {
        "median": MedianPruner(),
        "halving": SuccessiveHalvingPruner(min_resource=every),
        "none": NopPruner(),
    }
    with turn(folder), naming_damage(path):
        if path.is_file():
            with _held(path):
                _mend(path)
        return optuna.create_study(
            study_name=NAME,
            storage=_storage(path),
            direction=direction,
            pruner=pruners[pruner],
            load_if_exists=True,
        )


def read_study(folder: Path) -> optuna.Study | None:
    """Return the study of a sweep to read from; `None` if it has not begun.

    Raises:
        MetaLensError: the journal is damaged.
    """
    path = folder / JOURNAL
    if not path.is_file() or not path.stat().st_size:
        return None
    with naming_damage(path):
        return optuna.load_study(study_name=NAME, storage=_storage(path))


def _storage(path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))


def _mend(path: Path) -> None:
    """Remove a last line that was not written whole, to which the next one would be joined."""
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(content.rfind(b"\n") + 1)


def naming_damage(path: Path) -> AbstractContextManager[None]:
    """Say that a file is damaged where the block fails for what is in it.

    Raises:
        MetaLensError: the block failed.
    """
    return in_one_sentence(f"{path} is damaged", "sweep into another folder", _DAMAGE)


def repeated(trials: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers of the trials that others repeat, as their processes were lost or interrupted.

    Args:
        trials: all of a study. One that has come to its end all the same counts beside the other.
    """
    numbers = {trial.user_attrs["repeats"] for trial in trials if "repeats" in trial.user_attrs}
    return {number for number in numbers if trials[number].state in (TrialState.RUNNING, TrialState.FAIL)}


def requeue(study: optuna.Study, trial: FrozenTrial | Trial, *, lost: bool) -> None:
    """End a trial without a result, for another process to repeat it.

    Settings at which more than `MOST_LOSSES` processes were lost are not tried again.

    Args:
        study: of the trial.
        trial: that was running.
        lost: whether its process was, rather than interrupted.
    """
    losses = trial.user_attrs.get("losses", 0) + lost
    # In this order: if this process is killed in between, the trial is not forgotten.
    if losses <= MOST_LOSSES and trial.number not in repeated(study.get_trials(deepcopy=False)):
        study.enqueue_trial(trial.params, user_attrs={"repeats": trial.number, "losses": losses})
    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


@contextmanager
def heartbeat(trial: Trial, lost_after: float) -> Iterator[None]:
    """Count on in the journal as long as this process works on a trial."""
    over = Event()

    def count() -> None:
        signs = 0
        while not over.wait(lost_after / _OFTEN):
            signs += 1
            with suppress(UpdateFinishedTrialError, OSError):  # which the trial itself meets as well
                trial.set_user_attr("signs", signs)

    thread = Thread(target=count, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Watch:
    """Finds the trials whose processes give no sign of life.

    It looks whether anything has changed, by its own clock, so that the clocks of machines need not agree.

    Args:
        lost_after: seconds without a sign, after which a process counts as lost.
    """

    def __init__(self, lost_after: float) -> None:
        self.lost_after = lost_after
        self.seen: dict[int, tuple[Any, float]] = {}

    def lost(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the running trials that have not changed for too long, as far as this watch has looked."""
        now = time.monotonic()
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        seen = {}
        for trial in running:
            signs = (trial.user_attrs.get("signs"), len(trial.intermediate_values))
            before, since = self.seen.get(trial.number, (None, now))
            seen[trial.number] = (signs, since if signs == before else now)
        self.seen = seen
        return [trial for trial in running if now - seen[trial.number][1] > self.lost_after]
