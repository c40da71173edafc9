"""A training that ends early goes on to the same bits, and what cannot be gone on with is refused."""

import hashlib
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save

from metalens import (
    MAML,
    Machine,
    MAMLPlusPlus,
    MetaAug,
    MetaLensError,
    Objective,
    Regularizer,
    Sinusoid,
    Validation,
    fit,
    fit_together,
    mlp,
)
from metalens.execution import compiling, plan
from metalens.experiments import RECIPES
from metalens.experiments.experiment import Watcher, run
from metalens.experiments.recipe import ONE_THREAD
from metalens.io import files
from metalens.io.files import new_folder
from metalens.training.checkpoint import Checkpoints
from paper.samplers import ATS, ASr
from tools.crash import survive

STEPS = 12


class Killed(BaseException):
    """Ends a training at some step, as a signal would."""


class Drawing(Regularizer):
    """Draws from all random streams."""

    def loss_terms(self, adapted):
        number = float(torch.rand(())) + np.random.rand() + random.random()
        return {"drawn": adapted.outer_loss * number}


def objective(regularizers=(), cls=MAML, **settings):
    torch.manual_seed(0)
    return Objective(cls(mlp(hidden=[6]), inner_lr=0.01, **settings), regularizers)


def train(own, out, *, until=None, **settings):
    def kill(step, loss):
        if step == until:
            raise Killed

    defaults = {"steps": STEPS, "meta_batch_size": 4, "out": out, "checkpoint_every": 0, "on_step": kill}
    return fit(own, Sinusoid(), **{**defaults, **settings})


def assert_same(before, after):
    assert before[1].equals(after[1])
    for name, tensor in before[0].state_dict().items():
        assert torch.equal(tensor, after[0].state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["fit", "together", "run"])
def test_killed_trainings_end_in_the_same_bytes(scenario, tmp_path):
    ways = survive(scenario, tmp_path / scenario, kills=3, seed=1, disk=os.geteuid() == 0)
    assert len(ways) >= 3


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (partial(objective, [MetaAug()]), {"sampler": ATS}),
        (objective, {"sampler": partial(ASr, use="weights"), "clip_norm": 0.1}),
        (partial(objective, [Drawing()]), {"schedule": "linear"}),
        (partial(objective, cls=MAMLPlusPlus, multi_step_until=0.9), {"outer_optimizer": "sgd"}),
        (
            partial(objective, [MetaAug()]),
            {"validation": partial(Validation, Sinusoid("val"), n_tasks=3, every=2), "outer_lr": 0.3},
        ),
    ],
    ids=["ats", "asr", "all random streams", "schedules", "validation"],
)
def test_whatever_changes_in_training_is_resumed(make, settings, tmp_path):
    def settled():
        random.seed(0)
        np.random.seed(0)
        return {name: value() if callable(value) else value for name, value in settings.items()}

    whole = make()
    expected = whole, train(whole, tmp_path / "a", **settled())
    with pytest.raises(Killed):
        train(make(), tmp_path / "b", until=STEPS // 2, **settled())
    resumed = make()
    again = resumed, train(resumed, tmp_path / "b", resume=True, **settled())
    assert_same(expected, again)
    for name in ("weights.safetensors", "metrics.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_execution_of_the_start_is_used_again(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "_compiled", lambda program, arguments: program)
    told = []
    with pytest.raises(Killed):
        train(objective(), tmp_path, until=5, machine=Machine(compile=True), on_execution=told.append)
    monkeypatch.setattr(plan, "_chosen", None)  # nothing is decided any more
    train(objective(), tmp_path, resume=True, machine=Machine(compile=True), on_execution=told.append)
    assert told[0] == told[1]
    assert told[1].whole


def test_a_finished_training_is_not_repeated(tmp_path):
    own = objective()
    curve = train(own, tmp_path)
    again, steps = objective(), []
    assert_same(
        (own, curve), (again, train(again, tmp_path, resume=True, on_step=lambda *a: steps.append(a)))
    )
    assert not steps


@pytest.mark.parametrize("until", [None, 5])
def test_a_folder_with_a_training_is_refused_without_resume(until, tmp_path):
    with suppress(Killed):
        train(objective(), tmp_path, until=until)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(MetaLensError, match=r"holds a training .*choose another folder, resume it by"):
        train(objective(), tmp_path)
    with pytest.raises(MetaLensError, match="holds a training"):
        fit_together([objective()], [Sinusoid()], steps=2, meta_batch_size=2, out=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def newest(folder):
    def step(path):
        return int(path.name.split("-")[1])

    return max((folder / "checkpoints").iterdir(), key=step)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "zeros", "pickle"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage, tmp_path):
    own = objective([MetaAug()])
    expected = own, train(own, tmp_path / "a")
    with pytest.raises(Killed):
        train(objective([MetaAug()]), tmp_path / "b", until=8)
    path = newest(tmp_path / "b")
    assert len(list(path.parent.iterdir())) == 2
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "flipped": content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
            "empty": b"",
            "zeros": bytes(len(content)),
            "pickle": pickle.dumps({"weights": 1}),
        }[damage]
    )
    again = objective([MetaAug()])
    with pytest.warns(UserWarning, match=rf"{path.name} is damaged .* is left out"):
        curve = train(again, tmp_path / "b", resume=True)
    assert_same(expected, (again, curve))


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", ["pickle", "torch", "inside"])
def test_a_checkpoint_with_a_pickle_is_refused_and_runs_nothing(kind, tmp_path):
    evil, folder = tmp_path / "evil", tmp_path / "out" / "checkpoints"
    folder.mkdir(parents=True)
    if kind == "torch":
        torch.save({"weights": Payload(evil)}, tmp_path / "saved")
        content = (tmp_path / "saved").read_bytes()
    else:
        content = pickle.dumps({"weights": Payload(evil)})
    if kind == "inside":  # a valid file, whose header holds the pickle where JSON belongs
        content = save({"a": torch.ones(1)}, {"content": content.decode("latin-1"), "fingerprint": "{}"})
    digest = hashlib.sha256(content).hexdigest()[:16]  # as if it had been written so
    (folder / f"step-3-{digest}.safetensors").write_bytes(content)
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(MetaLensError, match=r"Every checkpoint in .* is damaged; start over"),
    ):
        train(objective(), tmp_path / "out", resume=True)
    assert not evil.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 20}, "steps was 12 and is 20"),
        ({"meta_batch_size": 5}, "meta_batch_size was 4 and is 5, tasks.data was"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"validation": Validation(Sinusoid("val"))}, r"validation.tasks.class was absent and is Sinusoid"),
        ({"sampler": ATS()}, "sampler.class was Uniform and is ATS"),
    ],
)
def test_checkpoints_of_another_configuration_are_refused(changes, words, tmp_path):
    with pytest.raises(Killed):
        train(objective(), tmp_path, until=4)
    with pytest.raises(MetaLensError, match=f"are of another training: {words}.*; make both alike"):
        train(objective(), tmp_path, resume=True, **changes)


def test_checkpoints_of_another_learner_threads_and_code_are_refused(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        train(objective(), tmp_path, until=4)
    with pytest.raises(MetaLensError, match=r"learner.inner_steps was 1 and is 2"):
        train(objective(inner_steps=2), tmp_path, resume=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(MetaLensError, match=f"threads was {threads} and is {threads + 1}"):
            train(objective(), tmp_path, resume=True)
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr("metalens.training.fingerprint.source_digest", lambda: "0" * 16)
    with pytest.raises(MetaLensError, match=r"metalens was .* and is .*, source 0000000000000000"):
        train(objective(), tmp_path, resume=True)


def test_settings_of_checkpoints_are_checked(tmp_path):
    with pytest.raises(MetaLensError, match="resume=True needs the folder"):
        fit(objective(), Sinusoid(), steps=1, meta_batch_size=4, resume=True)
    with pytest.raises(MetaLensError, match="checkpoint_every must be 0 seconds or more, got -1"):
        Checkpoints(tmp_path, every=-1)


def test_checkpoints_are_written_by_the_clock(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr("metalens.training.checkpoint.time.monotonic", lambda: now)
    written = []
    monkeypatch.setattr(Checkpoints, "write", partialmethod_of(written, Checkpoints.write))

    def tick(step, loss):
        nonlocal now
        now += 20.0

    train(objective(), tmp_path, checkpoint_every=60.0, on_step=tick)
    assert written == [3, 6, 9, 12]


def partialmethod_of(steps, write):
    def noted(self, step, state):
        steps.append(step)
        write(self, step, state)

    return noted


# Runs

TINY = replace(
    RECIPES["sinusoid-5shot"],
    seeds=[3, 5], steps=4, meta_batch_size=4, n_val_tasks=4, n_test_tasks=5,
    machine=replace(ONE_THREAD, together=False),
    regularizers=["none", "MetaAug"],
)  # fmt: skip


class Ending(Watcher):
    """Ends a run when so many cells are done, and counts the trainings."""

    def __init__(self, after=None):
        self.after, self.trained, self.done = after, 0, 0

    def start_training(self, cells, steps):
        self.trained += 1

    def end_cell(self, cell, scores, diverged):
        self.done += 1
        if self.done == self.after:
            raise KeyboardInterrupt


def tables(folder):
    return {path.name: path.read_bytes() for path in (*folder.glob("*.csv"), *folder.glob("weights/*"))}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The trained weights are kept")
def test_an_interrupted_run_keeps_what_is_done(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with new_folder(whole) as folder:
        run(TINY, folder)
    with (
        pytest.raises(KeyboardInterrupt, match="resume with --resume"),
        new_folder(broken, resume=False) as folder,
    ):
        run(TINY, folder, watcher=Ending(2))
    assert not broken.exists()
    (unfinished,) = (path for path in tmp_path.iterdir() if path != whole)
    (unfinished / ".results.csv.1.partial").touch()  # of a writer that was killed
    with pytest.raises(MetaLensError, match="unfinished; resume it with --resume, or start over with --over"):
        new_folder(broken, resume=False).__enter__()
    with (
        pytest.raises(MetaLensError, match="is of another run: steps was 4 and is 5"),
        new_folder(broken, resume=True) as folder,
    ):
        run(replace(TINY, steps=5), folder)
    ending = Ending()
    with new_folder(broken, resume=True) as folder:
        run(TINY, folder, watcher=ending)
    assert (ending.trained, ending.done) == (2, 4)
    assert tables(broken) == tables(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "whole"]
    assert not (broken / "unfinished").exists()
    assert not list(broken.rglob("*.partial"))


def test_a_full_disk_keeps_what_is_done(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    def fill(folder):
        with new_folder(folder, resume=False) as new:
            (new / "weights").mkdir()
            (new / "weights" / "a.safetensors").touch()
            monkeypatch.setattr(files.os, "fsync", full)
            run(TINY, new)

    with (
        pytest.warns(UserWarning, match="The trained weights are kept; resume with --resume"),
        pytest.raises(OSError, match="No space left"),
    ):
        fill(tmp_path / "run")
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.partial"))
    with new_folder(tmp_path / "run", resume=True) as folder:
        run(TINY, folder)
    assert (tmp_path / "run" / "manifest.json").is_file()


def test_two_processes_do_not_write_the_same_run(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from metalens.io.files import new_folder\n"
        "with new_folder(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "run")]
    other = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        with pytest.raises(MetaLensError, match=r"Another process writes .* now"):
            new_folder(tmp_path / "run").__enter__()
    finally:
        other.kill()
        other.communicate()
    with new_folder(tmp_path / "run") as folder:  # the lock went with its process
        assert not list(folder.iterdir())


@pytest.mark.slow
def test_the_command_line_resumes(tmp_path):
    words = [
        sys.executable, "-m", "metalens", "run", "demo", "--steps", "400", "--n_val_tasks", "0",
        "--n_test_tasks", "5", "--regularizers", "none", "--seeds", "0", "1", "--machine.together", "false",
        "--machine.accelerator", "cpu", "--out", "run", "--resume",
    ]  # fmt: skip
    process = subprocess.Popen(
        [*words, "--checkpoint_every", "0"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("step-*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert errors.strip().splitlines()[-1] == "metalens: interrupted; resume with --resume."
    assert not (tmp_path / "run").exists()
    for _ in range(2):  # the second time there is nothing left to do
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "report.html" in done.stdout
    other = subprocess.run([*words, "--steps", "7"], cwd=tmp_path, capture_output=True, text=True)
    assert other.returncode == 2
    assert "run is of another run: steps was 400 and is 7; make both alike" in other.stderr
