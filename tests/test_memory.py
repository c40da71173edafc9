"""Memory of outer steps: that it is counted, that chunks are chosen to fit, and that scores do not change."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mapping import mapped
from torch import nn

from metalens import (
    ANIL,
    MAML,
    Examples,
    FromScratch,
    Machine,
    MAMLPlusPlus,
    MetaLensError,
    Objective,
    ProtoNet,
    Sinusoid,
    Task,
    TRLearner,
    Validation,
    conv4,
    evaluate,
    fit,
    mlp,
)
from metalens.execution import memory, plan
from metalens.execution.memory import available_bytes, fitting_chunk, peak_bytes, step_bytes
from metalens.execution.plan import executable

CURVES = Sinusoid().batch(range(12))


def images(n):
    y = torch.arange(5).repeat(n, 1)
    x = torch.rand(n, 5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return Task(Examples(x, y), Examples(x.repeat(1, 3, 1, 1, 1), y.repeat(1, 3)))


def with_trlearner(learner, **settings):
    return Objective(learner, [TRLearner(**settings)])


def small_conv4():
    return conv4(5, n_filters=8, image_size=16)


CASES = {
    "curves": (lambda: Objective(MAML(mlp())), CURVES),
    "schedule": (lambda: Objective(MAMLPlusPlus(mlp(), inner_steps=3)), CURVES),
    "all pairs": (lambda: with_trlearner(MAML(mlp())), CURVES),
    "neighbors": (lambda: with_trlearner(MAML(mlp()), neighbors=2), CURVES),
    "images": (lambda: with_trlearner(MAML(small_conv4(), inner_steps=2)), images(6)),
    "features": (lambda: with_trlearner(ANIL(small_conv4())), images(6)),
    "nothing adapts": (lambda: mapped(Objective(ProtoNet(small_conv4())), "vmap"), images(6)),
}


@pytest.fixture
def available(monkeypatch, tmp_path):
    """Let as much memory be there as the test says."""
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path))

    def let(n):
        monkeypatch.setattr(memory, "available_bytes", lambda device: n / memory.SHARE)

    return let


def test_tensors_are_counted_while_they_live():
    kept = torch.ones(1000)
    assert peak_bytes(lambda: kept.view(10, 100)[3].add_(1)) == 0
    assert peak_bytes(lambda: torch.stack([kept + 1, kept + 2])) == 4 * 4000
    assert peak_bytes(lambda: [len(kept + i) for i in range(9)]) == 4000


def penalized(predictions, y):
    return F.mse_loss(predictions, y) + 0.1 * predictions.abs().mean()


# The derivative of a sign is a tensor of zeros without a storage.
@pytest.mark.parametrize("batching", ["loop", "vmap"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: MAML(mlp(activation=nn.Softsign)),
        lambda: MAML(mlp(), loss=F.l1_loss),
        lambda: MAML(mlp(), loss=penalized),
    ],
    ids=["softsign", "l1", "penalty"],
)
def test_derivatives_that_are_zero_are_counted(make, batching):
    few, many = (step_bytes(mapped(Objective(make()), batching), Sinusoid().batch(range(n))) for n in (2, 8))
    assert 0 < few <= many


def test_counting_leaves_no_gradient_and_sees_schedules():
    objective = Objective(MAMLPlusPlus(mlp(), inner_steps=3))
    early = step_bytes(objective, CURVES)
    assert objective.learner.schedule_finished
    assert all(p.grad is None for p in objective.parameters())
    assert early > step_bytes(Objective(MAMLPlusPlus(mlp(), inner_steps=3, multi_step_until=0)), CURVES)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_fits_is_not_chunked_and_chunks_fit(case, available):
    make, tasks = CASES[case]
    objective = make()
    objective.chunk = None
    whole, total = step_bytes(objective, tasks), tasks.query.y.shape[0]
    for share in (1.05, 2, 20):
        available(share * whole)
        assert fitting_chunk(objective, tasks) is None
    for share in (0.95, 0.8, 0.4, 0.01):
        available(share * whole)
        objective.chunk = chunk = fitting_chunk(objective, tasks)
        assert chunk is not None
        assert 1 <= chunk < total
        assert chunk == 1 or step_bytes(objective, tasks) <= share * whole
        objective.chunk = None


@pytest.mark.parametrize("learner", [MAML, ANIL, ProtoNet])
def test_a_loop_without_regularizers_has_the_memory_of_one_task(learner, available):
    objective = Objective(learner(small_conv4()))
    objective.chunk = None
    one, all_of_them = (step_bytes(objective, images(n)) for n in (1, 6))
    assert all_of_them < 1.5 * one
    available(0)
    assert fitting_chunk(objective, images(6)) is None


def test_a_single_task_is_never_chunked(available):
    available(0)
    assert fitting_chunk(Objective(MAML(mlp())), Sinusoid().batch([0])) is None


def test_what_cannot_be_followed_is_not_chunked(available, monkeypatch):
    def refuse(objective, tasks):
        raise NotImplementedError

    available(0)
    monkeypatch.setattr(memory, "step_bytes", refuse)
    assert fitting_chunk(Objective(MAML(mlp())), CURVES) is None


def test_auto_is_decided_before_training(available):
    def chosen_for(objective, **settings):
        steps = settings.pop("steps", 10)
        return executable(objective, CURVES, Machine(profile=True, **settings), steps=steps)[1]

    available(math.inf)
    objective = Objective(MAML(mlp()))
    assert chosen_for(objective).chunk is None
    assert objective.chunk is None

    available(0)
    for steps in (10, 100):
        objective = mapped(Objective(MAML(mlp())), "vmap")
        chosen = chosen_for(objective, steps=steps)
        assert objective.chunk == chosen.chunk == 1
        assert not chosen.compiled
        assert str(chosen).startswith("vmap in chunks of 1 task (")
        assert all(p.grad is None for p in objective.parameters())
    assert chosen_for(mapped(Objective(MAML(mlp())), "vmap"), steps=100) == chosen

    for chunk in (None, 4):
        objective = mapped(Objective(MAML(mlp())), chunk=chunk)
        assert chosen_for(objective, chunk=chunk).chunk == objective.chunk == chunk
    assert "in chunks of 4 tasks" in str(chosen_for(objective, chunk=4))


def test_what_is_compiled_by_request_or_not_trained_is_not_chunked(available, monkeypatch):
    available(0)
    monkeypatch.setattr(plan, "CompiledObjective", lambda objective: objective)
    compiled = Machine(compile=True)
    assert executable(Objective(MAML(mlp())), CURVES, compiled, steps=10)[1].chunk is None
    assert executable(Objective(FromScratch(mlp())), CURVES, Machine(), steps=10)[1].chunk is None


def test_kept_memory_is_returned_where_tasks_do_not_fit(available, monkeypatch):
    returned = []
    monkeypatch.setattr(plan, "return_freed_memory", lambda: returned.append(True))
    for room, keep in ((math.inf, True), (0, False), (0, True)):
        available(room)
        executable(Objective(MAML(mlp())), CURVES, Machine(keep_freed_memory=keep), steps=10)
    assert returned == [True]


@pytest.mark.parametrize(("loop", "tried"), [(None, True), (4, True), (2, False)])
def test_a_way_that_needs_smaller_chunks_is_not_tried(available, monkeypatch, loop, tried):
    available(math.inf)
    chunks = {"vmap": 4, "loop": loop}
    monkeypatch.setattr(plan, "fitting_chunk", lambda objective, tasks: chunks[objective.batching])
    _, chosen = executable(Objective(MAML(mlp())), CURVES, Machine(profile=True), steps=100)
    assert chosen.chunk == 4
    assert ("loop" in chosen.seconds) == tried


def test_training_in_chosen_chunks_is_the_same(available):
    results = []
    for n in (math.inf, 0):
        available(n)
        torch.manual_seed(0)
        objective = with_trlearner(MAML(mlp()), n_query_hat=4)
        validation = Validation(Sinusoid("val"), n_tasks=7, every=2)
        curve = fit(objective, Sinusoid(), steps=4, meta_batch_size=5, seed=1, validation=validation)
        results.append((objective.chunk, curve, objective.state_dict()))
    (free, curve, weights), (tight, other_curve, other_weights) = results
    assert (free, tight) == (None, 1)
    np.testing.assert_allclose(curve.value, other_curve.value, rtol=1e-4)
    torch.testing.assert_close(weights, other_weights, rtol=1e-3, atol=1e-5)


class Recorded(Sinusoid):
    """Notes how many tasks were asked for at a time."""

    def batch(self, indices):
        self.sizes = [*getattr(self, "sizes", []), len(indices)]
        return super().batch(indices)


@pytest.mark.parametrize(
    ("chunk", "sizes"), [(None, [50, 50, 20]), ("auto", [50, 50, 20]), (45, [45, 45, 30]), (99, [50, 50, 20])]
)
def test_evaluation_takes_a_few_tasks_at_a_time(chunk, sizes):
    learner, tasks = MAML(mlp()), Recorded("test")
    rows = evaluate(learner, tasks, n_tasks=120, chunk=chunk)
    assert tasks.sizes == sizes
    np.testing.assert_allclose(rows.value, evaluate(learner, tasks, n_tasks=120).value, rtol=1e-4)


def test_a_chunk_of_no_tasks_is_refused():
    wrong: Any
    for wrong in (0, -1, 2.5, "all"):
        with pytest.raises(MetaLensError, match="chunk must be at least 1 task"):
            Machine(chunk=wrong)
    with pytest.raises(MetaLensError, match="chunk must be at least 1 task"):
        evaluate(MAML(mlp()), Sinusoid("test"), n_tasks=3, chunk=0)


@pytest.mark.parametrize(
    ("group", "limit", "used"),
    [
        ("0::/jobs/mine", "memory.max", "memory.current"),
        ("4:memory:/jobs/mine", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_the_limits_of_control_groups_count(tmp_path, monkeypatch, group, limit, used):
    (tmp_path / "own").write_text(f"1:name=systemd:/\n{group}\n")
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:      40 kB\n")
    monkeypatch.setattr(memory, "retained_bytes", lambda: 5)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", ((tmp_path / "groups", limit, used),))
    cpu = torch.device("cpu")
    assert available_bytes(cpu) == 40 * 1024 + 5

    for folder, allowed in (("groups/jobs/mine", "max"), ("groups/jobs", "10000")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / limit).write_text(f"{allowed}\n")
        (tmp_path / folder / used).write_text("4000\n")
        (tmp_path / folder / "memory.stat").write_text("anon 3000\ninactive_file 1000\n")
    assert available_bytes(cpu) == 7000 + 5

    (tmp_path / "groups/jobs/mine" / limit).write_text("3000\n")
    assert available_bytes(cpu) == 5

    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "absent")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "absent")
    assert available_bytes(cpu) == math.inf
    assert available_bytes(torch.device("mps")) == math.inf
