"""How steps are executed: what is chosen, that the choice is kept, and that it changes nothing but time."""

import shutil

import numpy as np
import pytest
import torch
from mapping import mapped

from metalens import (
    ADKF,
    MAML,
    FromScratch,
    Machine,
    MAMLPlusPlus,
    MetaLensError,
    Objective,
    Regularizer,
    Sinusoid,
    conv4,
    fit,
    mlp,
)
from metalens.execution import compiling, plan
from metalens.execution.compiling import CompiledObjective
from metalens.execution.plan import Execution, executable
from metalens.execution.whole_step import WholeStep

TASKS = Sinusoid().batch(range(4))


@pytest.fixture
def timings(monkeypatch, tmp_path):
    """Let steps take what the test says, and count the measurements."""
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path))
    monkeypatch.setattr(compiling, "_compiled", lambda program, arguments: program)
    taken = {"vmap": 1.0, "loop": 1.0, "compiled": 1.0, "measured": 0}

    def seconds(module, tasks):
        taken["measured"] += 1
        return taken["compiled" if isinstance(module, CompiledObjective | WholeStep) else module.batching]

    monkeypatch.setattr(plan, "_seconds", seconds)
    return taken


def profiling(**settings):
    return Machine(profile=True, **settings)


def prepared(steps=1000, **settings):
    objective = Objective(MAML(mlp(hidden=[4])))
    module, chosen = executable(objective, TASKS, profiling(**settings), steps=steps)
    assert objective.batching == chosen.batching
    assert isinstance(module, CompiledObjective) == chosen.compiled
    return chosen


def test_a_short_run_follows_the_rule_unmeasured(timings):
    assert prepared(steps=99) == Execution("vmap", False, "by rule, as the run is short", {})
    assert timings["measured"] == 0


@pytest.mark.parametrize(("loop", "chosen"), [(0.79, "loop"), (0.81, "vmap"), (2.0, "vmap")])
def test_the_rule_is_overruled_where_the_other_way_is_clearly_faster(timings, loop, chosen):
    timings |= {"vmap": 1e-3, "loop": loop * 1e-3}
    assert prepared().batching == chosen


@pytest.mark.parametrize(
    ("vmap", "compiled", "chosen"), [(0.1, 0.07, True), (0.1, 0.09, False), (0.08, 0.01, False)]
)
def test_a_long_run_is_compiled_and_stays_so_where_clearly_faster(timings, vmap, compiled, chosen):
    timings |= {"vmap": vmap, "compiled": compiled}
    assert prepared(steps=1000).compiled == chosen
    assert not prepared(steps=1000, compile=False).compiled
    assert prepared(steps=10, compile=True).compiled


def test_what_hangs_on_nothing_is_not_measured(timings):
    assert prepared(steps=1000, compile=True).reason == "as asked"
    objective = mapped(Objective(MAML(mlp(hidden=[4]))), "loop")
    _, chosen = executable(objective, TASKS, profiling(batching="loop", compile=False), steps=1000)
    assert chosen == Execution("loop", False, "as asked", {})
    frozen = Objective(FromScratch(mlp(hidden=[4])))
    _, chosen = executable(frozen, TASKS, profiling(), steps=1000)
    assert chosen.reason == "nothing is trained"
    assert timings["measured"] == 0


def test_a_choice_is_kept_for_the_same_work(timings):
    first = prepared()
    measured = timings["measured"]
    timings["loop"] = 1e-6
    assert prepared() == first
    assert timings["measured"] == measured
    assert prepared(steps=1001).batching == "loop"


def test_a_damaged_memory_is_measured_again(timings, tmp_path):
    first = prepared()
    (file,) = (tmp_path / "executions").iterdir()
    for text in ("", "[1]", '{"batching": "vmap"}'):
        file.write_text(text)
        assert prepared() == first


def test_choosing_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path))
    objective = Objective(MAML(mlp(hidden=[4])))
    state = torch.get_rng_state()
    executable(objective.eval(), TASKS, profiling(), steps=100)
    assert torch.equal(torch.get_rng_state(), state)
    assert not objective.training
    assert all(p.grad is None for p in objective.parameters())


@pytest.mark.slow
def test_nothing_is_tried_kept_or_changed_unasked(timings, tmp_path, monkeypatch):
    def refuse():
        raise AssertionError

    monkeypatch.setattr("metalens.training.train.keep_freed_memory", refuse)
    chosen = []
    settings = {"steps": 150, "meta_batch_size": 3, "on_execution": chosen.append}
    fit(Objective(MAML(mlp(hidden=[4]))), Sinusoid(), **settings)
    assert str(chosen[0]) == "vmap (by rule)"
    assert timings["measured"] == 0
    assert not list(tmp_path.iterdir())
    fit(Objective(MAML(mlp(hidden=[4]))), Sinusoid(), machine=Machine(profile=True), **settings)
    assert chosen[1].reason == "measured"
    assert len(list((tmp_path / "executions").iterdir())) == 1
    with pytest.raises(AssertionError):
        fit(Objective(MAML(mlp(hidden=[4]))), Sinusoid(), machine=Machine(keep_freed_memory=True), **settings)


def test_the_machine_decides_threads_batching_and_chunks():
    before, seen = torch.get_num_threads(), []
    objective = Objective(MAML(mlp(hidden=[4])))
    machine = Machine(threads=before + 1, batching="loop", chunk=2)
    fit(
        objective, Sinusoid(), steps=1, meta_batch_size=4, machine=machine,
        on_step=lambda step, loss: seen.append(torch.get_num_threads()),
    )  # fmt: skip
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
    assert (objective.batching, objective.chunk) == ("loop", 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"devices": 0}, "devices must be at least 1"),
        ({"workers": 0}, "workers must be at least 1, or ray"),
        ({"workers": 2, "devices": 2}, "Only one of workers and devices"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"strategy": "fsdp"}, "strategy must be one of auto, ddp"),
        ({"chunk": 0}, "chunk must be at least 1"),
    ],
)
def test_wrong_machines_are_refused(settings, words):
    with pytest.raises(MetaLensError, match=words):
        Machine(**settings)


def test_training_is_the_same_compiled(timings):
    curves, weights = [], []
    for compiled in (False, True):
        torch.manual_seed(0)
        objective = Objective(MAML(mlp()))
        machine = Machine(compile=compiled)
        curves.append(fit(objective, Sinusoid(), steps=20, meta_batch_size=4, machine=machine))
        weights.append(objective.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(curves[0].value, curves[1].value, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_training_with_the_compiler():
    torch.manual_seed(0)
    objective = Objective(MAML(mlp(hidden=[4])))
    curve = fit(objective, Sinusoid(), steps=2, meta_batch_size=4, machine=Machine(compile=True))
    torch.manual_seed(0)
    plain = fit(Objective(MAML(mlp(hidden=[4]))), Sinusoid(), steps=2, meta_batch_size=4)
    np.testing.assert_allclose(curve.value, plain.value, rtol=1e-4)


def test_a_schedule_runs_plainly_until_it_has_settled():
    learner = MAMLPlusPlus(mlp(hidden=[4]), inner_steps=2, multi_step_until=0.5)
    compiled = CompiledObjective(Objective(learner), backend=None)
    losses = {}
    for progress in (0.25, 0.5):
        learner.set_progress(progress)
        losses[progress] = compiled(TASKS)["query"]
        torch.testing.assert_close(losses[progress], compiled.objective(TASKS)["query"])
        assert len(compiled._programs) == (progress == 0.5)
    assert losses[0.25] != losses[0.5]


class Coin(Regularizer):
    """Adds what NumPy draws."""

    def loss_terms(self, adapted):
        return {"coin": np.random.default_rng().normal() * adapted.outer_loss}


class Unsettled(MAML):
    """Follows a schedule and does not say so."""

    def set_progress(self, progress):
        self.inner_lr = 0.01 * progress


def test_what_cannot_be_compiled_is_said():
    with pytest.raises(MetaLensError, match="differs from the plain one"):
        CompiledObjective(Objective(MAML(mlp()), [Coin()]), backend=None)(TASKS)
    for objective, words in (
        (Objective(MAML(conv4())), "looped over"),
        (mapped(Objective(MAML(mlp())), chunk=2), "in chunks"),
        (Objective(Unsettled(mlp())), "Unsettled follows a schedule"),
        (Objective(ADKF(mlp())), "steps of Newton's method"),
    ):
        with pytest.raises(MetaLensError, match=rf"^compile=True is not possible: .*{words}"):
            executable(objective, TASKS, Machine(compile=True, chunk=objective.chunk), steps=10)
