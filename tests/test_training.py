"""Training and evaluation: what is learned, kept, repeated and refused."""

import itertools
import math
import os
import platform
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from metalens import (
    MAML,
    DivergenceError,
    Examples,
    FromScratch,
    LinearProbe,
    Machine,
    MAMLPlusPlus,
    MetaLensError,
    Network,
    Objective,
    Sinusoid,
    Task,
    TaskDistribution,
    TRLearner,
    Validation,
    evaluate,
    fit,
    mlp,
    task_loss,
)
from metalens.io.files import new_folder
from metalens.metrics import task_metrics


def small(seed: int = 0, regularized: bool = True) -> Objective:
    torch.manual_seed(seed)
    learner = MAML(mlp(1, 1, [16]), inner_lr=0.05)
    return Objective(learner, [TRLearner()] if regularized else [])


@pytest.mark.slow
def test_training_learns_and_is_repeatable(tmp_path):
    before = evaluate(small().learner, Sinusoid("test"), n_tasks=100).value.mean()
    curves, scores = [], []
    for folder in ("a", "b"):
        objective = small()
        curves.append(
            fit(objective, Sinusoid(), steps=150, meta_batch_size=8, outer_lr=0.01, out=tmp_path / folder)
        )
        scores.append(evaluate(objective.learner, Sinusoid("test"), n_tasks=100))
    assert scores[0].value.mean() < 0.8 * before
    pd.testing.assert_frame_equal(*curves, check_exact=True)
    pd.testing.assert_frame_equal(*scores, check_exact=True)
    for name in ("metrics.csv", "weights.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert load_file(tmp_path / "a" / "weights.safetensors").keys() == objective.state_dict().keys()


def test_training_leaves_the_global_random_state_alone():
    objective = small()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fit(objective, Sinusoid(), steps=2, meta_batch_size=3)
    assert torch.equal(torch.rand(3), expected)


def test_validation_keeps_the_best_weights():
    """With an outer rate that wrecks the network, the weights of the best validation come back."""
    objective = small()
    validation = Validation(Sinusoid("val"), n_tasks=50, every=1)
    curve = fit(objective, Sinusoid(), steps=12, meta_batch_size=4, outer_lr=0.3, validation=validation)
    scores = curve[curve.split == "val"]["value"]
    assert scores.iloc[-1] > scores.min()
    kept = evaluate(objective.learner, Sinusoid("val"), n_tasks=50).value.mean()
    assert kept == pytest.approx(scores.min(), rel=1e-6)


def test_every_task_is_scored_alone():
    """The scores do not depend on which other tasks are evaluated."""
    learner = small().learner
    many = evaluate(learner, Sinusoid("test"), n_tasks=120)
    few = evaluate(learner, Sinusoid("test"), n_tasks=3, batching="loop")
    np.testing.assert_allclose(many.value[:3], few.value, rtol=1e-5)


def test_divergence_at_test_time_is_a_value_not_a_crash():
    learner = MAML(mlp(), inner_lr=50.0, inner_steps=1, test_inner_steps=60)
    assert not np.isfinite(evaluate(learner, Sinusoid("test"), n_tasks=5).value).all()


def test_divergence_in_classification_is_no_accuracy():
    predictions = torch.full((2, 3, 4), torch.nan)
    predictions[1] = 0.0
    accuracy = task_metrics(predictions, *torch.zeros(2, 2, 3, dtype=torch.int64), ["accuracy"])["accuracy"]
    assert accuracy.isnan().tolist() == [True, False]


def test_targets_that_do_not_fit_the_predictions_are_refused():
    class Flat(Sinusoid):
        def batch(self, indices):
            tasks = super().batch(indices)
            return tasks.map(lambda e: Examples(e.x, e.y.squeeze(-1)))

    with pytest.raises(MetaLensError, match=r"shape of the predictions, \(15, 1\), got \(15,\)"):
        fit(Objective(MAML(mlp())), Flat(k_shot=15), steps=1, meta_batch_size=3)
    with pytest.raises(MetaLensError, match="Class indices must be int64"):
        task_loss(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int32))
    with pytest.raises(
        MetaLensError, match=r"Class indices must be int64 of shape \(3,\), got torch.int64 of \(4,\)"
    ):
        task_loss(torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64))


def test_adapted_models_do_not_drop_out_and_leave_modes_as_they_were():
    backbone = nn.Sequential(nn.Linear(1, 30), nn.Dropout(0.5))
    learner = MAML(Network(backbone, nn.Linear(30, 1), n_features=30, n_outputs=1))
    backbone[1].eval()
    task = Sinusoid()[0]
    model = learner(task.support)
    assert torch.equal(model(task.query.x), model(task.query.x))
    evaluate(learner, Sinusoid("test"), n_tasks=2)
    assert learner.training
    assert not backbone[1].training


def test_divergence_with_clipping_is_the_same_sentence():
    objective = Objective(MAML(mlp(), inner_lr=50.0, inner_steps=40))
    with pytest.raises(MetaLensError, match="training diverged"):
        fit(objective, Sinusoid(), steps=5, meta_batch_size=3, clip_norm=1.0)


def test_an_unwritable_folder_is_refused_before_training():
    with pytest.raises(MetaLensError, match="Cannot write to"):
        fit(small(), Sinusoid(), steps=1, meta_batch_size=3, out="/proc")


def test_a_failed_replacement_leaves_the_old_run(tmp_path, monkeypatch):
    target = tmp_path / "run"
    with new_folder(target) as folder:
        (folder / "manifest.json").write_text("old")
    rename, calls = os.rename, []

    def interrupted(source, destination):
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(target, overwrite=True) as folder:
        (folder / "manifest.json").write_text("new")
    assert (target / "manifest.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_divergence_in_training_is_one_sentence():
    learner = MAML(mlp(), inner_lr=50.0, inner_steps=40)
    with pytest.raises(MetaLensError, match=r"at step \d+ \(tasks \d+ to \d+\): training diverged"):
        fit(Objective(learner), Sinusoid(), steps=5, meta_batch_size=3)


def test_a_divergence_leaves_the_best_weights_so_far():
    class Exploding(Sinusoid):
        def batch(self, indices):
            tasks = super().batch(indices)
            return tasks.map(lambda e: Examples(e.x, e.y * (1e30 if max(indices) >= 12 else 1)))

    objective, short = small(), small()
    short.load_state_dict(objective.state_dict())
    validation = Validation(Sinusoid("val"), n_tasks=5, every=3)
    settings = {"meta_batch_size": 3, "validation": validation}
    with pytest.raises(DivergenceError, match="at step 5"):
        fit(objective, Exploding(), steps=9, **settings)
    fit(short, Sinusoid(), steps=3, **settings)
    for name, value in short.state_dict().items():
        torch.testing.assert_close(objective.state_dict()[name], value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"meta_batch_size": 0}, "meta_batch_size must be at least 1"),
        ({"outer_lr": 0.0}, "outer_lr must be above 0"),
        ({"clip_norm": -1.0}, "clip_norm must be above 0"),
        ({"meta_batch_size": 2}, "at least 3 tasks, got 2"),
    ],
)
def test_wrong_training_settings_are_refused_before_training(settings, words):
    with pytest.raises(MetaLensError, match=words):
        fit(small(), Sinusoid(), **({"steps": 3, "meta_batch_size": 3} | settings))


@pytest.mark.parametrize("batching", [0, -1, True, "fast"])
def test_wrong_batching_is_refused(batching):
    with pytest.raises(MetaLensError, match="batching must be"):
        Machine(batching=batching)


class Letters(TaskDistribution):
    """Classes 0 to 3 of the whole split; a task has two of them, in slots 0 and 1."""

    n_classes = 4

    def __init__(self, numbered: bool) -> None:
        super().__init__("train")
        self.numbered = numbered

    def __getitem__(self, index: int) -> Task:
        classes = torch.tensor([index % 4, (index + 1) % 4])
        both = Examples(classes.float().unsqueeze(1), classes if self.numbered else torch.arange(2))
        return Task(both, both)

    def with_global_labels(self) -> TaskDistribution:
        return Letters(numbered=True)


class Unnumbered(Letters):
    with_global_labels = TaskDistribution.with_global_labels


def test_pretraining_sees_the_classes_of_the_whole_split():
    learner = LinearProbe(mlp(1, 2, [16]), n_classes=4)
    fit(Objective(learner), Letters(numbered=False), steps=300, meta_batch_size=4, outer_lr=0.03)
    whole = torch.arange(4.0).unsqueeze(1)
    assert learner.network(whole).argmax(1).tolist() == [0, 1, 2, 3]
    assert Sinusoid().with_global_labels().batch(range(2)).query.y.shape == (2, 15, 1)


def test_pretraining_needs_numbered_classes_and_a_head_for_them():
    learner = LinearProbe(mlp(1, 2))
    with pytest.raises(
        MetaLensError, match="has 2 outputs, and its training tasks have 4 classes together; set"
    ):
        fit(Objective(learner), Letters(numbered=False), steps=1, meta_batch_size=4)
    with pytest.raises(MetaLensError, match="Unnumbered does not number the classes of all its tasks"):
        fit(Objective(learner), Unnumbered(numbered=False), steps=1, meta_batch_size=4)


def test_without_trainable_parameters_nothing_is_done():
    curve = fit(Objective(FromScratch(mlp())), Sinusoid(), steps=3, meta_batch_size=4)
    assert curve.empty


def test_a_failed_run_leaves_no_trace_of_its_progress():
    learner = MAMLPlusPlus(mlp(), inner_lr=1e20, inner_steps=3, first_order_until=1.0)
    with pytest.raises(MetaLensError, match="training diverged"):
        fit(Objective(learner), Sinusoid(), steps=5, meta_batch_size=4)
    assert not learner.detaches_gradients


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_of_plain_descent(schedule):
    """With a loss whose gradient is 1, each move is the step size of that step."""
    network = Network(nn.Identity(), nn.Linear(1, 1), n_features=1, n_outputs=1)
    learner = LinearProbe(network, loss=lambda predictions, y: predictions.sum() / predictions.numel())
    places = [network.head.bias.item()]
    fit(
        Objective(learner), Sinusoid(), steps=4, meta_batch_size=2, outer_lr=0.5, outer_optimizer="sgd",
        schedule=schedule, on_step=lambda step, loss: places.append(network.head.bias.item()),
    )  # fmt: skip
    shares = {
        "constant": [1, 1, 1, 1],
        "linear": [1, 0.75, 0.5, 0.25],
        "cosine": [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)],
    }
    moves = [before - after for before, after in itertools.pairwise(places)]
    assert moves == pytest.approx([0.5 * share for share in shares[schedule]], abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"outer_optimizer": "lbfgs"}, "outer_optimizer must be one of adam, sgd, got 'lbfgs'"),
        ({"schedule": "step"}, "schedule must be one of constant, linear, cosine, got 'step'"),
    ],
)
def test_wrong_outer_settings_are_refused(settings, words):
    with pytest.raises(MetaLensError, match=words):
        fit(Objective(MAML(mlp())), Sinusoid(), steps=1, meta_batch_size=4, **settings)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library is told to")
def test_freed_memory_is_kept():
    """A tensor in the place of a freed one meets no page that the system has yet to clear."""
    code = """
import resource, torch
from metalens.execution.malloc import keep_freed_memory
keep_freed_memory()
faults = []
for _ in range(10):
    torch.ones(16_000_000)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(min(after - before for before, after in zip(faults, faults[1:])))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 100  # of 15625 pages
