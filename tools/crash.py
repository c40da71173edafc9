"""Kill trainings at random instants, and check that they resume to the same bits.

    python tools/crash.py --kills 60 --seed 0

Three tiny trainings are done once without interruption: `fit` with all that has a state of its own, three
objectives side by side, and a whole run of two arms and two seeds. Each is then started again and killed by
SIGKILL again and again: at a random time, inside a random call that writes a checkpoint or another file, with
half of its content written, or by a full disk (a tmpfs where mounting is allowed, else a limit on the size of
files). After each kill the training is resumed. In the end every file must be there, none half-written, and
weights, curves and results must be those of the training without interruption, byte by byte. A checkpoint is
written after every step, so that most kills meet one.
"""

from __future__ import annotations

import argparse
import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save

import metalens as ml
from metalens.execution.machine import Machine
from metalens.experiments import RECIPES
from metalens.experiments.experiment import run
from metalens.io.files import new_folder

sys.path.insert(0, str(Path(__file__).parents[1]))
from paper.samplers import ATS

STEPS = 25
FULL = 4096  # bytes that a full disk has left; a checkpoint is larger
PROCESSES = multiprocessing.get_context("forkserver")  # a kill costs no import
PROCESSES.set_forkserver_preload(
    ["lightning_fabric", "metalens.training.fit", "metalens.experiments.experiment"]
)


def train_one(folder: Path) -> None:
    """Train with validation, a sampler that learns, random numbers of all kinds, clipping and a schedule."""
    torch.manual_seed(0)
    learner = ml.MAML(ml.mlp(hidden=[8]), inner_lr=0.01)
    regularizers = [
        ml.MRMAML(beta=0.01),
        ml.MetaAug(),
        ml.TRLearner(ml.relations.Shuffled()),
    ]
    ml.fit(
        ml.Objective(learner, regularizers),
        ml.Sinusoid(n_train_tasks=40),
        steps=STEPS,
        meta_batch_size=4,
        schedule="cosine",
        clip_norm=1.0,
        validation=ml.Validation(ml.Sinusoid("val"), n_tasks=5, every=4),
        sampler=ATS(held_out=2),
        machine=ml.Machine(accelerator="cpu"),
        out=folder / "fit",
        checkpoint_every=0.0,
        resume=True,
    )


def train_together(folder: Path) -> None:
    """Train three objectives side by side, of which one diverges on the way."""
    torch.manual_seed(0)
    rates = (0.003, 0.01, 1e4)
    objectives = [ml.Objective(ml.MAML(ml.mlp(hidden=[8]), inner_lr=rate)) for rate in rates]
    curves = ml.fit_together(
        objectives,
        [ml.Sinusoid(seed=seed) for seed in range(3)],
        steps=STEPS,
        meta_batch_size=4,
        clip_norm=1.0,
        validations=[ml.Validation(ml.Sinusoid("val"), n_tasks=5, every=4)] * 3,
        machine=ml.Machine(accelerator="cpu"),
        out=folder / "together",
        checkpoint_every=0.0,
        resume=True,
    )
    for number, (objective, curve) in enumerate(zip(objectives, curves, strict=True)):
        (folder / "together" / f"{number}.safetensors").write_bytes(save(objective.state_dict()))
        curve.to_csv(folder / "together" / f"{number}.csv", index=False)


def run_recipe(folder: Path) -> None:
    """Run two arms with two seeds as the command line does."""
    recipe = replace(
        RECIPES["demo"],
        regularizers=["none", "MetaAug"],
        seeds=[0, 1],
        steps=12,
        n_val_tasks=5,
        validate_every=4,
        n_test_tasks=8,
        machine=Machine(accelerator="cpu", threads=1),
    )
    if (folder / "run").exists():
        return
    with new_folder(folder / "run", resume=True) as target:
        run(recipe, target, checkpoint_every=0.0)


SCENARIOS = {"fit": train_one, "together": train_together, "run": run_recipe}


class Deadly:
    """A call that ends the process, once it has been called so many times."""

    def __init__(self, function: Callable, after: int, half: bool) -> None:
        self.function, self.left, self.half = function, after, half

    def __call__(self, *arguments: object, **settings: object) -> object:
        self.left -= 1
        if self.left > 0:
            return self.function(*arguments, **settings)
        if self.half:
            path, content = arguments
            self.function(path, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
        return None


def attempt(scenario: str, folder: Path, cut: tuple[str, int] | None, limit: int | None) -> None:
    """Train in this process, to the end or until a cut."""
    torch.set_num_threads(1)
    os.environ["METALENS_CACHE"] = str(folder.parent / "cache")
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if cut is not None:
        place, after = cut
        if place == "half":
            deadly = Deadly(Path.write_bytes, after, half=True)
            Path.write_bytes = lambda *arguments: deadly(*arguments)
        else:
            deadly = Deadly(getattr(os, place), after, half=False)
            setattr(os, place, deadly)
    try:
        SCENARIOS[scenario](folder)
    except OSError as error:  # the disk is full
        raise SystemExit(error.errno) from None


def tried(
    scenario: str,
    folder: Path,
    *,
    cut: tuple[str, int] | None = None,
    limit: int | None = None,
    seconds: float | None = None,
) -> int:
    """Return the exit code of an attempt, killed after some seconds."""
    process = PROCESSES.Process(target=attempt, args=(scenario, folder, cut, limit))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def killed(scenario: str, folder: Path, rng: random.Random, seconds: float) -> str | None:
    """Kill an attempt in some way; return how, or `None` if it came to its end before."""
    way = rng.choice(["time", "half", "fsync", "replace", "rename", "unlink"])
    if way == "time":
        code = tried(scenario, folder, seconds=rng.uniform(0, seconds))
    else:
        code = tried(scenario, folder, cut=(way, rng.randint(1, 2 * STEPS)))
    if code not in (0, -signal.SIGKILL):
        raise AssertionError(f"{scenario} ended with status {code} after {way}.")
    return way if code else None


def filled_up(scenario: str, folder: Path) -> bool:
    """Train on a full disk, and tell whether that ended the attempt."""
    if os.geteuid() == 0 and os.path.ismount(folder):
        filler = folder / "filler"
        with filler.open("wb") as file:
            free = shutil.disk_usage(folder).free
            file.write(b"\0" * max(0, free - FULL))
        code = tried(scenario, folder)
        filler.unlink()
    else:
        code = tried(scenario, folder, limit=FULL)
    assert code in (0, errno.ENOSPC, errno.EFBIG), f"{scenario} ended with status {code} on a full disk."
    return code != 0


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name, and of checkpoints only how many there are in each folder.

    Times are left out: those of a manifest, and those in a checkpoint.
    """
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            continue
        if path.parent.name == "checkpoints":
            name = f"{path.parent.relative_to(folder)}/{path.name.rpartition('-')[0]}"
            found[name] = b""
        elif path.name == "manifest.json":
            manifest = json.loads(path.read_text())
            for key in ("started", "seconds"):
                manifest.pop(key)
            for cell in manifest["cells"]:
                cell.pop("train_seconds")
                cell.pop("test_seconds")
            found[name] = json.dumps(manifest).encode()
        else:
            found[name] = path.read_bytes()
    return found


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a disk of a few megabytes at a folder, where that is allowed."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(words, capture_output=True).returncode == 0
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def survive(scenario: str, folder: Path, *, kills: int, seed: int, disk: bool = True) -> list[str]:
    """Kill a training many times, and compare its results with those of an uninterrupted one.

    Args:
        scenario: which training.
        folder: an empty folder.
        kills: at least so many.
        seed: of how and when.
        disk: also fill the disk once in a training.

    Returns:
        How it was killed.

    Raises:
        AssertionError: it ended otherwise, or in other files.
    """
    rng = random.Random(f"{scenario} {seed}")
    whole = folder / "whole"
    whole.mkdir(parents=True)
    begin = time.monotonic()
    assert tried(scenario, whole) == 0
    seconds = time.monotonic() - begin
    expected, ways = files(whole), []
    for number in range(10 * kills):
        broken = folder / f"broken{number}"
        with small_disk(broken) if disk else nullcontext(broken.mkdir()):
            ended = False
            while not ended and len(ways) < kills:
                if (way := killed(scenario, broken, rng, seconds)) is None:
                    ended = True
                else:
                    ways.append(way)
                if disk and not ended and rng.random() < 0.2 and filled_up(scenario, broken):
                    ways.append("full disk")
            assert tried(scenario, broken) == 0, f"{scenario} did not resume after {ways[-3:]}"
            found = files(broken)
            names = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
            assert not names, f"{scenario}: {', '.join(names)} differ after {ways[-5:]}"
        if len(ways) >= kills:
            break
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="of each training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--training", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    options = parser.parse_args()
    for scenario in options.training:
        with tempfile.TemporaryDirectory() as folder:
            ways = survive(scenario, Path(folder) / scenario, kills=options.kills, seed=options.seed)
        counts = ", ".join(f"{way} {ways.count(way)}" for way in dict.fromkeys(sorted(ways)))
        print(f"{scenario}: {len(ways)} kills ({counts}); every continuation ended in the same bytes")


if __name__ == "__main__":
    main()
