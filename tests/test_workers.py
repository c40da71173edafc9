"""Experiments in several processes: the same files, the same errors."""

import json
import sys
from dataclasses import replace

import pytest

from metalens import MetaLensError
from metalens.experiments import RECIPES
from metalens.experiments.experiment import run
from metalens.experiments.recipe import ONE_THREAD
from metalens.experiments.workers import as_completed

TINY = replace(
    RECIPES["sinusoid-5shot"],
    seeds=[0, 1], steps=3, meta_batch_size=4, n_val_tasks=4, n_test_tasks=5,
    machine=replace(ONE_THREAD, together=False),
    regularizers=["none"],
)  # fmt: skip


def with_workers(workers):
    return replace(TINY, machine=replace(TINY.machine, workers=workers))


def run_with(workers, folder):
    folder.mkdir()
    run(with_workers(workers), folder)
    cells = json.loads((folder / "manifest.json").read_text())["cells"]
    assert [cell["seed"] for cell in cells] == TINY.seeds
    return [(folder / name).read_bytes() for name in ("results.csv", "metrics.csv", "curves.csv")]


@pytest.mark.slow
def test_processes_write_what_one_does(tmp_path):
    assert run_with(2, tmp_path / "two") == run_with(1, tmp_path / "one")


def test_a_ray_cluster_writes_what_one_process_does(tmp_path):
    pytest.importorskip("ray")
    assert run_with("ray", tmp_path / "ray") == run_with(1, tmp_path / "one")
    diverging = replace(with_workers("ray"), learner=["MAML(inner_lr=1e30)"])
    with pytest.raises(MetaLensError, match="diverged"):
        run(diverging, tmp_path)


def test_an_error_of_a_worker_is_that_of_the_experiment(tmp_path):
    with pytest.raises(MetaLensError, match="diverged"):
        run(replace(with_workers(2), learner=["MAML(inner_lr=1e30)"]), tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_ray_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MetaLensError, match=r"pip install 'metalens\[ray\]'"):
        list(as_completed(abs, [1], workers="ray", threads=1))


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_are_counted(workers):
    with pytest.raises(MetaLensError, match=f"at least 1, or ray, got {workers}"):
        with_workers(workers)
