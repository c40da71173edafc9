"""Checkpoints: files with the state of a training, from which it resumes to the last bit."""

import hashlib
import json
import math
import random
import re
import time
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from metalens.errors import MetaLensError, reraise_as
from metalens.io.files import atomic_path, remove_partials
from metalens.processes import ALONE, Processes

State = dict[str, Any]  # a tree of dictionaries, lists, tensors and plain values
Fingerprint = Mapping[str, Any]  # plain values by name, see `metalens.training.fingerprint`

MAX_KEPT = 2
MAX_DIFFERENCES = 5  # in a message
_CLOCK_EVERY = 10  # steps between two readings of the clock by several processes
_TENSOR = "$tensor"  # in JSON, the key of a tensor's name
_NUMBER = "$number "  # in JSON, the prefix of an integer key
_NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.safetensors")


class Checkpoints:
    """The newest two states of a training, one file each.

    A file is safetensors, with the plain values as JSON in its header; it can hold no code. Its name has the
    step and the SHA-256 of the content, so that any damage is noticed. Of several processes, the first one
    reads and writes.

    Args:
        folder: where the files are; `None` in a process that does not write.
        every: seconds between two checkpoints; 0 writes one after every step, infinity none.
        resume: resume from the newest checkpoint, if there is one; otherwise the folder must hold none.

    Attributes:
        seconds: duration of the training up to the checkpoint from which it resumes.

    Raises:
        MetaLensError: `every` is negative or not a number.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> checkpoints = Checkpoints(folder)
    >>> checkpoints.begin({"seed": 0})
    >>> checkpoints.write(7, {"weights": torch.ones(2)})
    >>> Checkpoints(folder, resume=True).begin({"seed": 0})["weights"]
    tensor([1., 1.])
    >>> Checkpoints(folder, resume=True).begin({"seed": 1})
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: The checkpoints in ... are of another training: seed was 0 and is 1; make
    both alike, or start over in another folder.
    """

    def __init__(self, folder: Path | None, *, every: float = 60.0, resume: bool = False) -> None:
        if not every >= 0:
            raise MetaLensError(f"checkpoint_every must be 0 seconds or more, got {every}.")
        self.folder, self.every, self.resume = folder, every, resume
        self.seconds = 0.0
        self._fingerprint: Fingerprint = {}
        self._begin = self._next = math.inf

    def begin(self, fingerprint: Fingerprint, processes: Processes = ALONE) -> State | None:
        """Return the state from which to resume, the same in all processes; `None` to start over.

        Raises:
            MetaLensError: the checkpoints are of another training, or all of them are damaged.
        """
        found, self._fingerprint = None, fingerprint
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear()
            if self.resume:
                found = self._newest(fingerprint)
        found = processes.gather_objects([found])[0]
        self.seconds = found["seconds"] if found else 0.0
        self._begin = time.monotonic()
        self._next = self._begin + self.every
        return found["state"] if found else None

    def is_due(self, step: int, processes: Processes = ALONE) -> bool:
        """Return whether a checkpoint is due, the same in all processes."""
        if processes.world_size > 1 and step % _CLOCK_EVERY:
            return False
        return processes.all_reduce_min(self._next - time.monotonic()) <= 0

    def write(self, step: int, state: State) -> None:
        """Write the state after a step, and keep the one before.

        Raises:
            OSError: the file cannot be written; earlier checkpoints stay.
        """
        if self.folder is not None:
            tensors: dict[str, Tensor] = {}
            seconds = self.seconds + time.monotonic() - self._begin
            plain = _without_tensors({"state": state, "seconds": seconds}, "", tensors)
            header = {"content": json.dumps(plain), "fingerprint": json.dumps(dict(self._fingerprint))}
            content = save(tensors, header)
            name = f"step-{step}-{_digest(content)}.safetensors"
            with atomic_path(self.folder / name) as path:
                path.write_bytes(content)
            self._clear()
        self._next = time.monotonic() + self.every

    def _clear(self) -> None:
        """Delete all but the newest files."""
        assert self.folder is not None
        remove_partials(self.folder)
        for old in _files(self.folder)[MAX_KEPT:]:
            old.unlink()

    def _newest(self, fingerprint: Fingerprint) -> State | None:
        """Return the content of the newest undamaged file."""
        assert self.folder is not None
        paths = _files(self.folder)
        for path in paths:
            try:
                content, saved = _read(path)
            except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, OSError) as error:
                warnings.warn(f"The checkpoint {path} is damaged ({error}) and is left out.", stacklevel=2)
                continue
            if changes := differences(saved, fingerprint):
                raise MetaLensError(
                    f"The checkpoints in {self.folder} are of another training: {changes}; make both alike, "
                    "or start over in another folder."
                )
            return content
        if paths:
            raise MetaLensError(
                f"Every checkpoint in {self.folder} is damaged; start over in another folder."
            )
        return None


def restoring() -> AbstractContextManager[None]:
    """Reraise errors of the block as those of a checkpoint without the state of this training."""
    prefix = "The newest checkpoint does not hold the state of this training"
    return reraise_as(prefix, "delete it, or start over in another folder")


def differences(before: Fingerprint, now: Fingerprint) -> str:
    """Return a description of what differs, empty if nothing does.

    >>> differences({"steps": 10, "seed": 0}, {"steps": 20, "seed": 0})
    'steps was 10 and is 20'
    """
    absent = "absent"
    now = json.loads(json.dumps(dict(now)))  # as it would be read from a file
    pairs = {name: (before.get(name, absent), now.get(name, absent)) for name in {**before, **now}}
    found = [f"{name} was {old} and is {new}" for name, (old, new) in pairs.items() if old != new]
    n_more = len(found) - MAX_DIFFERENCES
    return ", ".join(found[:MAX_DIFFERENCES]) + (f", and {n_more} more differ" if n_more > 0 else "")


def random_streams(device: torch.device) -> State:
    """Return the states of the random streams of PyTorch (CPU and device), NumPy and Python."""
    kind, keys, *rest = np.random.get_state()
    streams: State = {"torch": torch.get_rng_state(), "python": random.getstate()}
    streams["numpy"] = [kind, keys.tolist(), *rest]  # pyright: ignore[reportAttributeAccessIssue] # an array
    if device.type != "cpu":
        streams["device"] = torch.get_device_module(device).get_rng_state()
    return streams


def set_random_streams(streams: State, device: torch.device) -> None:
    """Restore the states of the random streams."""
    torch.set_rng_state(streams["torch"])
    kind, keys, *rest = streams["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    version, words, gauss = streams["python"]
    random.setstate((version, tuple(words), gauss))
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(streams["device"])


def _files(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the newest first."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _read(path: Path) -> tuple[State, Fingerprint]:
    match = _NAME.fullmatch(path.name)
    if match is None or match[2] != _digest(path.read_bytes()):
        raise ValueError("its content was changed")
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # no dictionary
    content = _with_tensors(json.loads(header["content"]), tensors)
    return {name: content[name] for name in ("state", "seconds")}, dict(json.loads(header["fingerprint"]))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _without_tensors(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a tree with names in place of its tensors, which are put into a dictionary."""
    if isinstance(tree, Tensor):
        tensors[name] = tree.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {_TENSOR: name}
    if isinstance(tree, dict):
        return {
            f"{_NUMBER}{key}" if isinstance(key, int) else key: _without_tensors(
                value, f"{name}/{key}", tensors
            )
            for key, value in tree.items()
        }
    if isinstance(tree, list | tuple):
        return [_without_tensors(value, f"{name}/{i}", tensors) for i, value in enumerate(tree)]
    return tree


def _with_tensors(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, dict):
        if tree.keys() == {_TENSOR}:
            return tensors[tree[_TENSOR]]
        return {
            int(key.removeprefix(_NUMBER)) if key.startswith(_NUMBER) else key: _with_tensors(value, tensors)
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [_with_tensors(value, tensors) for value in tree]
    return tree
