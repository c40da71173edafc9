"""Several processes do what one does: the tasks of every step are shared, the results are not."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import distributed
import pandas as pd
import pytest
import torch

from metalens import MAML, MLTI, Machine, MetaLensError, Objective, Sinusoid, TRLearner, mlp
from metalens.cli.run import _rank
from metalens.execution.compiling import compile_refusal
from metalens.execution.plan import executable
from metalens.experiments import RECIPES
from metalens.experiments.experiment import explain, run
from metalens.processes import Processes
from metalens.specs.settings import changed

SMALL = {
    "steps": 3,
    "meta_batch_size": 4,
    "n_test_tasks": 60,
    "n_val_tasks": 3,
    "regularizers": "TRLearner",
}
QUICK = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
QUICK += ["--machine.accelerator", "cpu"]


def start(*words: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What two processes made of all cases."""
    path = tmp_path_factory.mktemp("two") / "results.pt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    program = str(Path(distributed.__file__))
    processes = [start(program, str(path), **shared, NODE_RANK="0", LOCAL_RANK=rank) for rank in "01"]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    return torch.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", distributed.CASES)
def test_two_processes_train_as_one(two_processes, name):
    alone = distributed.CASES[name].train(Machine(accelerator="cpu"))
    torch.testing.assert_close(
        torch.tensor(two_processes["trained"][name], dtype=torch.float64),
        torch.tensor(alone, dtype=torch.float64),
        rtol=1e-9,
        atol=1e-9,
        equal_nan=True,  # ProtoNet has no prototype of a class that a support set lacks
    )


@pytest.mark.slow
def test_all_processes_resume_with_their_own_random_numbers(two_processes):
    assert two_processes["resumed"] == [[True, True]] * 2


@pytest.mark.slow
def test_all_processes_notice_a_loss_that_is_not_finite(two_processes):
    assert "The loss is inf at step 1 (tasks 0 to 5)" in two_processes["diverged"]


@pytest.mark.slow
def test_gathering_and_its_gradient(two_processes):
    matrix, column, slope = two_processes["gathered"]
    assert matrix.tolist() == [[0, 1], [2, 3], [10, 11], [12, 13]]
    assert column.tolist() == [0, 2, 10, 12]
    assert slope.tolist() == [[3, 3], [3, 3]]  # 1 + 2, the factors of both processes


def test_a_single_process_communicates_nothing():
    tree = {"a": torch.ones(3)}
    alone = Processes()
    assert alone.all_gather(tree) is tree
    assert alone.all_reduce_mean(tree) is tree
    assert alone.broadcast(tree["a"]) is tree["a"]
    assert alone.gather_objects([1, 2]) == [1, 2]


def test_what_is_shared_must_divide_and_suffice():
    learner = MAML(mlp())
    both = Objective(learner, [TRLearner(), MLTI()])
    with pytest.raises(MetaLensError, match="2 processes cannot share 5 tasks equally"):
        both.check_meta_batch_size(5, 2)
    both.check_meta_batch_size(4, 2)
    Objective(learner, [TRLearner()]).check_meta_batch_size(4, 4)
    with pytest.raises(MetaLensError, match="MLTI needs a meta-batch of at least 2 tasks, got 1"):
        both.check_meta_batch_size(4, 4)


def test_steps_that_communicate_are_not_compiled():
    learner = MAML(mlp())
    related, plain = Objective(learner, [TRLearner()]), Objective(learner)
    assert compile_refusal(related) is None
    related.processes = plain.processes = Processes(world_size=2)
    assert "exchange adapted models" in str(compile_refusal(related))
    assert compile_refusal(plain) is None


def test_all_processes_follow_the_rule():
    objective = Objective(MAML(mlp()))
    objective.processes = Processes(world_size=2)
    machine = Machine(profile=True, chunk=None)
    _, execution = executable(objective, Sinusoid().batch(range(4)), machine, steps=10_000)
    assert str(execution) == "vmap (by rule, the same in all processes)"
    with pytest.raises(MetaLensError, match="Several processes follow the rule"):
        next(explain(changed(RECIPES["demo"], {"machine": {"devices": 2}})))


def torchrun(*words: str) -> subprocess.Popen:
    """Start the command line in two processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return start(*launcher, "-m", "metalens", *words, "--machine.devices", "2")


@pytest.mark.slow
def test_the_command_line_runs_two_processes_as_one(tmp_path):
    words = ["run", "demo", *QUICK, "--machine.strategy", "ddp", "--out", str(tmp_path / "two")]
    output, _ = (process := torchrun(*words)).communicate(timeout=120)
    assert process.returncode == 0, output
    (tmp_path / "one").mkdir()
    settings = {**SMALL, "regularizers": ["TRLearner"], "machine": {"accelerator": "cpu"}}
    run(changed(RECIPES["demo"], settings), tmp_path / "one")
    assert output.count("Report: ") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    for name in ("results.csv", "metrics.csv", "curves.csv", "relations.csv"):
        pd.testing.assert_frame_equal(
            pd.read_csv(tmp_path / "two" / name), pd.read_csv(tmp_path / "one" / name), rtol=1e-3, atol=1e-4
        )
    manifest = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert (manifest["processes"], manifest["machine"]["strategy"]) == (2, "ddp")
    assert (tmp_path / "two" / "report.html").is_file()
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_a_failure_ends_all_processes_and_leaves_nothing(tmp_path):
    words = ["run", "demo", *QUICK, "--learner", "MAML(inner_lr=1e30)", "--out", str(tmp_path / "run")]
    output, _ = (process := torchrun(*words)).communicate(timeout=120)
    assert process.returncode != 0
    assert any(line.startswith("metalens: Every training diverged") for line in output.splitlines())
    assert not list(tmp_path.iterdir())


def test_the_number_of_processes_must_be_that_of_devices(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert _rank(2) == 1
    with pytest.raises(MetaLensError, match=r"devices is 1, and 2 processes were .*--machine.devices 2"):
        _rank(1)
