"""Task samplers, batches and runs that are refused in one sentence."""

import sys

import pytest
from sampling import T, Weighing, objective_of

from metalens import (
    MAML,
    HardMining,
    Machine,
    MetaLensError,
    Objective,
    Related,
    ReplicationError,
    Sinusoid,
    Task,
    Uniform,
    fit,
    fit_together,
    mlp,
)
from metalens.processes import Processes
from metalens.specs.calls import build_sampler
from paper.samplers import DPP, ASr


class Unknown(Sinusoid):
    """Sinusoids without descriptors."""

    def draw(self, rng, n):
        return Task(*super().draw(rng, n)[:2])


@pytest.mark.parametrize(
    ("sampler", "tasks", "words"),
    [
        (HardMining(), Sinusoid(n_train_tasks=3), "needs 4 training tasks at a step, got a pool of 3"),
        (Related(anchors=3, neighbors=2), Sinusoid(), "make 9 tasks, got meta_batch_size=4"),
        (
            ASr(held_out=8),
            Sinusoid(n_train_tasks=11),
            "needs 12 .*pool of 11; lower meta_batch_size or held_out",
        ),
        (ASr(use="examples", n_query_hat=16), Sinusoid(), "n_query_hat is 16, but a task has 15 queries"),
        (DPP(vectors="descriptors"), Unknown(), "tasks of Unknown have no descriptors"),
        (Related(), Unknown(), "tasks of Unknown have no descriptors; let the sampler ask the model"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(sampler, tasks, words):
    with pytest.raises(MetaLensError, match=words):
        fit(objective_of(), tasks, steps=1, meta_batch_size=T, sampler=sampler)


def test_relations_need_a_trlearner():
    with pytest.raises(MetaLensError, match="needs a TRLearner among the regularizers"):
        fit(Objective(MAML(mlp())), Sinusoid(), steps=1, meta_batch_size=T, sampler=Related(by="relations"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("HardMining(oversampling=0)", "oversampling must be at least 1"),
        ("Related(neighbors=0)", "neighbors must be at least 1"),
        ("Related(anchors=0)", "anchors must be at least 1"),
        ("Related(by=color)", "by"),
        ("ASr(use=color)", "use"),
        ("ASr(use=examples)", "n_query_hat belongs to use='examples'"),
        ("ASr(held_out=0)", "held_out must be at least 1"),
        ("ASr(lookahead=0)", "lookahead must be above 0"),
        ("ATS(hidden=0)", "hidden must be at least 1"),
        ("ATS(lr=0)", "lr must be above 0"),
        ("ATS(memory=1)", "memory must be 0 or more and below 1"),
        ("DPP(vectors=color)", "vectors"),
        ("HardMining(depth=3)", "HardMining has no setting 'depth'; it has oversampling"),
        ("HardMining + Related", "A task sampler must be a single name"),
    ],
)
def test_wrong_samplers_are_one_sentence(text, words):
    with pytest.raises(MetaLensError, match=words):
        build_sampler(text)


def test_who_asks_the_model_trains_alone():
    objective = objective_of()
    objective.processes = Processes(0, 2)
    with pytest.raises(MetaLensError, match=r"HardMining asks the model at each step.*devices=1"):
        HardMining().check(objective, Sinusoid(), T)
    with pytest.raises(ReplicationError, match="samplers that do not ask the model"):
        fit_together(
            [objective_of(0), objective_of(1)],
            [Sinusoid(), Sinusoid()],
            steps=1,
            meta_batch_size=T,
            samplers=[HardMining(), HardMining()],
        )


def test_dpp_without_its_library_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "dppy.finite_dpps", None)
    with pytest.raises(MetaLensError, match="DPPy, which is not installed; run pip install dppy"):
        DPP(vectors="descriptors").check(objective_of(), Sinusoid(), T)


def test_who_weighs_is_not_compiled():
    with pytest.raises(MetaLensError, match="steps whose tasks are weighed are not compiled"):
        fit(
            objective_of(),
            Sinusoid(),
            steps=1,
            meta_batch_size=T,
            sampler=Weighing(),
            machine=Machine(compile=True),
        )


def test_each_objective_needs_a_sampler():
    with pytest.raises(
        MetaLensError, match="got 1 objectives, 1 distributions of tasks, 1 validations and 2"
    ):
        fit_together(
            [objective_of()], [Sinusoid()], steps=1, meta_batch_size=T, samplers=[Uniform(), Uniform()]
        )
