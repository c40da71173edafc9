"""The script for a GPU runs on a CPU, keeps to its time, and loses nothing where a part fails."""

import json
import time

import pytest
import torch

from tools import gpu
from tools.speed.equality import Reference
from tools.speed.workloads import WORKLOADS


def run(monkeypatch, tmp_path, *words):
    monkeypatch.setattr("sys.argv", ["gpu.py", *words, "--out", str(tmp_path / "gpu.json")])
    gpu.main()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_ends(monkeypatch, tmp_path, capsys):
    run(monkeypatch, tmp_path)
    assert capsys.readouterr().out.startswith("There is no GPU that PyTorch can use here")
    assert not (tmp_path / "gpu.json").exists()
    assert "Not measured: no GPU was at hand." in gpu.PAGE.read_text(encoding="utf-8")


def test_a_part_that_fails_or_takes_too_long_is_recorded_and_others_go_on(monkeypatch, tmp_path, capsys):
    def late(found, device, *, quick):
        found["first"] = 1.5
        time.sleep(60)

    def wrong(found, device, *, quick):
        raise ValueError("no such kernel")

    def right(found, device, *, quick):
        found |= {"of": {"device": device, "quick": quick}, "failures": []}

    parts = {"steps": (late, 0.0), "memory": (wrong, 1.0), "bf16": (right, 1.0)}
    monkeypatch.setattr(gpu, "PARTS", parts)
    started, page = time.perf_counter(), tmp_path / "page.md"
    page.write_text("a\n<!-- gpu:begin -->\nold\n<!-- gpu:end -->\nb\n", encoding="utf-8")
    run(monkeypatch, tmp_path, "--device", "cpu", "--quick", "--page", str(page))
    assert time.perf_counter() - started < 30
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert (found["steps"]["first"], found["steps"]["stopped"]) == (1.5, "out of time")
    assert found["memory"]["failed"] == "ValueError: no such kernel"
    assert found["bf16"]["of"] == {"device": "cpu", "quick": True}
    text = page.read_text(encoding="utf-8")
    assert "| steps | first | 1.5 |" in text
    assert "| bf16 | of: device | cpu |" in text
    assert "| bf16 | failures | none |" in text
    assert "old" not in text


@pytest.mark.parametrize("cls", [gpu.Mixed, gpu.LoopBf16])
def test_own_ways_make_the_same_steps(cls):
    workload = gpu.small(WORKLOADS["sinusoid-maml-5"])
    errors = Reference.of(workload).errors(cls(workload))
    assert errors["gradient"] < (1e-5 if cls is gpu.Mixed else 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["gradients", "resumed", "bf16", "memory"])
def test_every_part_runs_on_a_cpu(part, monkeypatch, tmp_path, capsys):
    run(monkeypatch, tmp_path, "--device", "cpu", "--quick", "--parts", part)
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))[part]
    assert not {"failed", "stopped"} & found.keys()
    if part == "gradients":
        assert found["checked"] == found["cases"] > 10
        assert found["failures"] == []
        assert 1e-9 < found["single precision, median"] < 1e-5
    if part == "resumed":
        assert found["largest difference"] == 0
    if part == "bf16":
        assert found["MAML, perceptron"]["bf16-mixed"] > 100 * found["MAML, perceptron"]["32-true"] > 0
