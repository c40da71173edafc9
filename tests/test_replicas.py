"""Objectives side by side: trained as each would be alone, or refused with a reason and left as they were."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric

from metalens import (
    ANIL,
    MAML,
    R2D2,
    AdaptedTasks,
    DivergenceError,
    FromScratch,
    Machine,
    MAMLPlusPlus,
    MetaLensError,
    MetaSGD,
    Objective,
    Regularizer,
    ReplicationError,
    Sinusoid,
    TRLearner,
    Validation,
    conv4,
    fit,
    fit_together,
    mlp,
)
from metalens.execution import compiling
from metalens.execution.replicas import Replicas
from metalens.experiments import RECIPES
from metalens.experiments.arms import MAX_TOGETHER, groups_of
from metalens.experiments.experiment import explain, run
from metalens.metrics import Metric
from metalens.specs.settings import changed

LOOP = {"steps": 20, "meta_batch_size": 4}


def maml(seed=0, weight=None, **settings):
    torch.manual_seed(seed)
    learner = MAML(mlp(hidden=[8]), **settings)
    regularizers = [] if weight is None else [TRLearner(weight=weight)]
    return Objective(learner, regularizers).double()


def meta_sgd(seed):
    torch.manual_seed(seed)
    return Objective(MetaSGD(mlp(hidden=[8]))).double()


def scheduled(seed):
    torch.manual_seed(seed)
    return Objective(MAMLPlusPlus(mlp(hidden=[8]), inner_steps=2, multi_step_until=0.5)).double()


def from_scratch(seed):
    torch.manual_seed(seed)
    return Objective(FromScratch(mlp(hidden=[8]), inner_steps=2)).double()


def r2d2(seed):
    torch.manual_seed(seed)
    return Objective(R2D2(mlp(hidden=[8]))).double()


class Doubled(Sinusoid):
    """Sinusoids in double precision."""

    def draw(self, rng, n):
        return torch.utils._pytree.tree_map(torch.Tensor.double, super().draw(rng, n))


def distributions(n, split="train"):
    return [Doubled(split, seed=seed) for seed in range(n)]


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (lambda r: maml(seed=r), {}),
        (lambda r: maml(seed=r, weight=0.1), {"outer_optimizer": "sgd", "schedule": "cosine"}),
        (lambda r: maml(inner_lr=[0.01, 0.03, 0.1][r], weight=[0.1, 1, 0.5][r]), {"clip_norm": 0.5}),
        (meta_sgd, {"clip_norm": 0.5}),
        (r2d2, {"clip_norm": 0.5}),
        (scheduled, {}),
        (from_scratch, {}),
    ],
    ids=["seeds", "sgd", "numbers", "meta-sgd", "scalars", "schedule", "nothing-to-train"],
)
def test_together_is_as_alone(make, settings):
    tasks, held_out = distributions(3), distributions(3, "val")
    validations = [Validation(of_one, n_tasks=5, every=5) for of_one in held_out]
    alone, together = [make(r) for r in range(3)], [make(r) for r in range(3)]
    curves = [
        fit(objective, of_one, validation=validation, **LOOP, **settings)
        for objective, of_one, validation in zip(alone, tasks, validations, strict=True)
    ]
    own = fit_together(together, tasks, validations=validations, **LOOP, **settings)
    for one, other, curve, own_curve in zip(alone, together, curves, own, strict=True):
        torch.testing.assert_close(other.state_dict(), one.state_dict(), rtol=1e-7, atol=1e-9)
        pd.testing.assert_frame_equal(own_curve, curve, rtol=1e-7)


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (lambda r: maml(inner_lr=[0.01, 0.03, 0.1][r], weight=[0.1, 1, 0.5][r]), {"clip_norm": 0.5}),
        (lambda r: maml(seed=r), {"outer_optimizer": "sgd", "schedule": "cosine", "ema": 0.5}),
        (scheduled, {}),
    ],
    ids=["numbers", "average", "schedule"],
)
def test_who_is_out_of_patience_is_no_longer_computed_and_ends_as_alone(make, settings, monkeypatch):
    computed, compute = [], Replicas.loss_terms

    def spy(self, tasks):
        computed.append(len(tasks.support.x))
        return compute(self, tasks)

    monkeypatch.setattr(Replicas, "loss_terms", spy)
    tasks, alone, together = distributions(3), [make(r) for r in range(3)], [make(r) for r in range(3)]
    constant = Metric("constant", lambda predictions, y, known: 0 * predictions[:, 0, 0], "lower")
    held_out = distributions(3, "val")
    validations = [  # of which the first ends at step 2, though its objective computes for all
        Validation(held_out[0], n_tasks=5, every=1, patience=1, metrics=[constant]),
        Validation(held_out[1], n_tasks=5, every=1),
        Validation(held_out[2], n_tasks=5, every=1, patience=4, metrics=[constant]),
    ]
    curves = []
    for objective, of_one, validation in zip(alone, tasks, validations, strict=True):
        curves.append(fit(objective, of_one, validation=validation, **LOOP, **settings))
    computed.clear()
    own = fit_together(together, tasks, validations=validations, **LOOP, **settings)
    taken = [computed[-20:].count(n) for n in (3, 2, 1)]
    assert taken == [2, 3, 15]
    for one, other, curve, own_curve in zip(alone, together, curves, own, strict=True):
        torch.testing.assert_close(other.state_dict(), one.state_dict(), rtol=1e-7, atol=1e-9)
        pd.testing.assert_frame_equal(own_curve, curve, rtol=1e-7)


@pytest.mark.slow
def test_together_compiled_is_as_alone(monkeypatch):
    monkeypatch.setattr(compiling, "_compiled", lambda program, arguments: program)
    alone, together = ([maml(seed, weight=0.1) for seed in range(2)] for _ in range(2))
    for objective, tasks in zip(alone, distributions(2), strict=True):
        fit(objective, tasks, **LOOP)
    chosen = []
    machine = Machine(compile=True, profile=True)
    fit_together(
        together, distributions(2), machine=machine, clip_norm=1e9, on_execution=chosen.append, **LOOP
    )
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other.state_dict(), one.state_dict(), rtol=1e-7, atol=1e-9)
    way, why = "2 side by side, vmap, compiled with the optimizer", "by rule, as the run is short"
    assert str(chosen[0]) == f"{way} ({why})"


def test_objectives_follow_their_replicas_until_released():
    objectives = [maml(seed) for seed in range(2)]
    replicas = Replicas(objectives)
    with torch.no_grad():
        for parameter in replicas.parameters():
            parameter.fill_(7.0)
    assert all((p == 7).all() for objective in objectives for p in objective.parameters())
    replicas.release()
    with torch.no_grad():
        for parameter in replicas.parameters():
            parameter.fill_(8.0)
    assert all((p == 7).all() for objective in objectives for p in objective.parameters())
    assert all(p.untyped_storage().nbytes() == p.nbytes for o in objectives for p in o.parameters())


class Noise(Regularizer):
    """Adds a random number."""

    def loss_terms(self, adapted):
        return {"noise": torch.randn(()) * adapted.outer_loss}


class Branch(Regularizer):
    """Decides by a number."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def loss_terms(self, adapted: AdaptedTasks):
        return {"term": adapted.outer_loss * 2} if self.weight > 1 else {}


class Secret(Regularizer):
    """Depends on what nobody can see."""

    def __init__(self, weight):
        super().__init__()
        self._weight = weight

    def loss_terms(self, adapted: AdaptedTasks):
        return {"term": self._weight * adapted.outer_loss}


def with_regularizer(regularizer):
    return Objective(MAML(mlp(hidden=[8])), [regularizer])


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (maml(), maml(inner_steps=2), "inner_steps of MAML is 1 and 2"),
        (maml(), Objective(ANIL(mlp(hidden=[8]))).double(), "the same modules"),
        (maml(), Objective(MAML(mlp(hidden=[9]))).double(), "the same parameters"),
        (maml(weight=0.1), maml(), "the same parameters"),
        (with_regularizer(Noise()), with_regularizer(Noise()), "random"),
        (with_regularizer(Branch(0.5)), with_regularizer(Branch(1.5)), "not possible"),
        (with_regularizer(Secret(0.5)), with_regularizer(Secret(1.5)), "differs from"),
        (Objective(MAML(conv4())), Objective(MAML(conv4())), "looped"),
    ],
)
def test_what_cannot_be_side_by_side_is_refused_and_unchanged(first, second, words):
    before = [{k: v.clone() for k, v in o.state_dict().items()} for o in (first, second)]
    settings = [{m: dict(vars(m)) for m in o.modules()} for o in (first, second)]
    with pytest.raises(ReplicationError, match=words):
        fit_together([first, second], [Sinusoid()] * 2, steps=2, meta_batch_size=4)
    for objective, state, values in zip((first, second), before, settings, strict=True):
        torch.testing.assert_close(objective.state_dict(), state, rtol=0, atol=0)
        assert {m: dict(vars(m)) for m in objective.modules()} == values


@pytest.mark.parametrize(("how", "words"), [({"chunk": 2}, "chunks"), ({"batching": "loop"}, "looped")])
def test_chunks_and_loops_are_refused_side_by_side_and_leave_nothing(how, words):
    objectives = [maml(), maml()]
    before = [(objective.batching, objective.chunk) for objective in objectives]
    with pytest.raises(ReplicationError, match=words):
        fit_together(objectives, [Doubled()] * 2, steps=2, meta_batch_size=4, machine=Machine(**how))
    assert [(objective.batching, objective.chunk) for objective in objectives] == before


def test_each_objective_needs_its_tasks():
    with pytest.raises(MetaLensError, match="2 objectives, 1 distributions"):
        fit_together([maml(), maml()], [Sinusoid()], steps=2, meta_batch_size=4)
    with pytest.raises(MetaLensError, match="0 objectives"):
        fit_together([], [], steps=2, meta_batch_size=4)


def test_a_diverged_replica_ends_and_the_others_go_on():
    rates = (0.01, 1e200, 0.02)
    objectives = [maml(inner_lr=rate) for rate in rates]
    told = []
    curves = fit_together(
        objectives, [Doubled()] * 3, steps=9, meta_batch_size=4, on_step=lambda step, loss: told.append(loss)
    )
    assert len(told) == 9
    assert all(map(math.isfinite, told))
    assert curves[1].iloc[-1].tolist()[1:] == ["train", "diverged", 1.0]
    assert curves[1]["step"].max() < 9
    for number in (0, 2):
        alone = maml(inner_lr=rates[number])
        curve = fit(alone, Doubled(), steps=9, meta_batch_size=4)
        np.testing.assert_allclose(curves[number]["value"], curve["value"], rtol=1e-7)
        for parameter, own in zip(objectives[number].parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(parameter, own, rtol=1e-6, atol=1e-9)


def test_when_all_replicas_diverge_training_stops():
    with pytest.raises(DivergenceError, match=r"The loss is (nan|inf), (nan|inf) at step"):
        fit_together(
            [maml(inner_lr=1e200), maml(inner_lr=2e200)], [Doubled()] * 2, steps=9, meta_batch_size=4
        )


TINY = replace(
    RECIPES["sinusoid-5shot"],
    seeds=[3, 5], steps=4, meta_batch_size=4, n_val_tasks=4, n_test_tasks=5,
    regularizers=["none", "TRLearner(relation=Shuffled)"],
)  # fmt: skip


def test_an_experiment_trains_its_seeds_together_where_it_can(tmp_path):
    scores, executions = {}, {}
    for together in ("auto", False):
        folder = tmp_path / str(together)
        folder.mkdir()
        run(changed(TINY, {"machine": {"together": together}}), folder)
        scores[together] = pd.read_csv(folder / "results.csv")
        cells = json.loads((folder / "manifest.json").read_text())["cells"]
        executions[together] = [cell["execution"].partition(",")[0] for cell in cells]
        assert [cell["seed"] for cell in cells] == [3, 5, 3, 5]
    np.testing.assert_allclose(scores["auto"].pop("value"), scores[False].pop("value"), rtol=1e-3)
    pd.testing.assert_frame_equal(scores["auto"], scores[False])
    assert executions["auto"][:2] == ["2 side by side"] * 2
    assert all(text.startswith("vmap") for text in (*executions["auto"][2:], *executions[False]))


def test_explaining_says_what_is_together():
    texts = [str(execution) for _, execution in explain(TINY)]
    assert [text.startswith("2 side by side, vmap") for text in texts] == [True, False]


def test_together_by_order_is_refused_where_it_cannot_be(tmp_path):
    with pytest.raises(ReplicationError, match="random"):
        run(changed(TINY, {"machine": {"together": True}}), tmp_path)


def test_arms_that_differ_in_numbers_are_together(tmp_path):
    arms = ["TRLearner(weight=0.1)", "none", "TRLearner(weight=1.0)"]
    tables = {}
    for together in ("auto", False):
        folder = tmp_path / str(together)
        folder.mkdir()
        run(changed(TINY, {"regularizers": arms, "machine": {"together": together}}), folder)
        tables[together] = pd.read_csv(folder / "results.csv")
        cells = json.loads((folder / "manifest.json").read_text())["cells"]
        assert [cell["regularizers"] for cell in cells] == [arm for arm in arms for _ in TINY.seeds]
        numbers = [cell["execution"].partition(" side by side")[0] for cell in cells]
        if together == "auto":
            assert numbers == ["4", "4", "2", "2", "4", "4"]
    np.testing.assert_allclose(tables["auto"].pop("value"), tables[False].pop("value"), rtol=1e-3)
    pd.testing.assert_frame_equal(tables["auto"], tables[False])


def test_many_cells_are_split():
    seeds = list(range(MAX_TOGETHER + 1))
    groups = groups_of(
        replace(TINY, seeds=seeds, regularizers=["none"]), Fabric(accelerator="cpu", devices=1)
    )
    assert [len(group) for group in groups] == [MAX_TOGETHER, 1]
