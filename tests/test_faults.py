"""Numbers that are not finite: in which task, what to do, and that they are counted."""

import math
import warnings
from dataclasses import fields, replace

import pytest
import torch
from torch.utils import _pytree as pytree

from metalens import (
    MAML,
    DivergenceError,
    HardMining,
    Machine,
    Objective,
    Regularizer,
    Sinusoid,
    Validation,
    fit,
    fit_together,
    mlp,
)
from metalens.execution.replicas import ReplicationError
from metalens.experiments import RECIPES
from metalens.experiments.experiment import run
from metalens.reports import faults_in_words, read_metrics


class Faulty(Sinusoid):
    """One of the tasks has a value that is no number, or one whose loss has no gradient."""

    def __init__(self, *arguments, number=9, part="query.y", value=torch.nan, **settings):
        super().__init__(*arguments, **settings)
        self.number, self.part, self.value = number, part, value

    def batch(self, indices):
        tasks = pytree.tree_map(torch.clone, super().batch(indices))
        examples, name = self.part.split(".")
        for row, index in enumerate(indices):
            if index == self.number:
                getattr(getattr(tasks, examples), name)[row] = self.value
        return tasks


def rooted(predictions, y):
    """A loss whose value is finite, and whose gradient is not, where all predictions are 0."""
    return (predictions - y).square().mean() + (predictions * y).square().sum().sqrt()


class Broken(Regularizer):
    def loss_terms(self, adapted):
        return {"broken": adapted.outer_loss * math.inf}


def maml(**settings):
    torch.manual_seed(0)
    return MAML(mlp(hidden=[6]), **{"inner_lr": 0.01, **settings})


def train(objective, tasks, **settings):
    return fit(objective, tasks, **{"steps": 4, "meta_batch_size": 4, **settings})


@pytest.mark.parametrize("part", ["support.x", "support.y", "query.x", "query.y"])
@pytest.mark.parametrize("batching", ["vmap", "loop"])
def test_faulty_data_name_the_step_and_the_task(part, batching):
    words = rf"The loss is nan at step 3 \(tasks 8 to 11\): {part} of task 9 is not finite; fix the data\."
    with pytest.raises(DivergenceError, match=words):
        train(Objective(maml()), Faulty(part=part), machine=Machine(batching=batching))


def test_a_sampler_knows_the_number_of_the_task():
    with pytest.raises(
        DivergenceError, match=r"at step 1 \(tasks \d+ to \d+\).*query.y of task 7 is not finite"
    ):
        train(Objective(maml()), Faulty(number=7, value=math.inf), sampler=HardMining())


def test_a_loss_that_diverges_names_the_task():
    words = r"at step 3 \(tasks 8 to 11\): training diverged, on task 9 before others; lower inner_lr"
    with pytest.raises(DivergenceError, match=words):
        train(Objective(maml()), Faulty(part="support.y", value=1e30))


def test_a_gradient_that_is_not_finite_names_the_task():
    words = (
        r"The norm of the gradient is nan at step 3 \(tasks 8 to 11\): the gradient of task 9 is not finite, "
        r"though its loss is; lower inner_lr, or leave such steps out with on_nonfinite='skip'"
    )
    objective = Objective(maml(loss=rooted, inner_lr=1e-9))
    before = {}

    def note(step, loss):
        before.update({name: tensor.clone() for name, tensor in objective.state_dict().items()})

    with pytest.raises(DivergenceError, match=words):
        train(objective, Faulty(value=0.0), on_step=note)
    for name, tensor in objective.state_dict().items():  # the step was not made
        assert torch.equal(tensor, before[name])


def test_a_term_that_is_not_finite_is_named():
    with pytest.raises(DivergenceError, match="the term broken is not finite; lower its weight"):
        train(Objective(maml(), [Broken()]), Sinusoid())


@pytest.mark.parametrize(
    ("value", "settings", "what"),
    [(torch.nan, {}, "loss"), (0.0, {"loss": rooted, "inner_lr": 1e-9}, "norm of the gradient")],
)
def test_steps_are_skipped_and_counted(value, settings, what):
    objective, weights = Objective(maml(**settings)), []

    def note(step, loss):
        weights.append(torch.cat([tensor.flatten() for tensor in objective.parameters()]).clone())

    with pytest.warns(UserWarning, match=f"The {what} is nan at step 3 .* task 9 .*; the step is skipped"):
        curve = train(objective, Faulty(value=value), on_nonfinite="skip", on_step=note)
    assert curve[curve["metric"] == "skipped"]["step"].tolist() == [3]
    assert torch.equal(weights[1], weights[2])
    assert weights[3].isfinite().all()
    assert not torch.equal(weights[2], weights[3])
    assert curve["value"].map(math.isfinite).all()
    assert curve[curve["metric"] == "query"]["step"].tolist() == [1, 2, 4]


def test_a_skipped_step_is_as_if_it_had_not_been():
    """Plain descent on the sound batches alone comes to the same weights."""

    class Sound(Sinusoid):
        def batch(self, indices):
            return super().batch([index if index < 8 else index + 4 for index in indices])

    skipping, sound = Objective(maml()), Objective(maml())
    with warnings.catch_warnings(action="ignore"):
        train(skipping, Faulty(), on_nonfinite="skip")
    train(sound, Sound(), steps=3)
    for one, other in zip(skipping.parameters(), sound.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_clipped_step_keeps_what_is_finite(clip_norm):
    class Halved(Regularizer):
        """Spoils the gradient of one parameter the third time: at step 2, after a look at the memory."""

        steps = 0

        def loss_terms(self, adapted):
            self.steps += 1
            zero = adapted.learner.network.head.bias.sum() * 0
            return {"halved": (zero.square() + (0 if self.steps == 3 else 1)).sqrt()}

    objective = Objective(maml(), [Halved()])
    before = objective.learner.network.head.weight.detach().clone()
    with pytest.warns(UserWarning, match="at step 2 .* on no task by itself; .*; the step is clipped"):
        curve = train(objective, Sinusoid(), on_nonfinite="clip", clip_norm=clip_norm, outer_optimizer="sgd")
    assert curve[curve["metric"] == "clipped"]["step"].tolist() == [2]
    assert all(parameter.isfinite().all() for parameter in objective.parameters())
    assert not torch.equal(before, objective.learner.network.head.weight)


def test_clipping_alone_changes_nothing_where_all_is_finite():
    one, other = Objective(maml()), Objective(maml())
    train(one, Sinusoid(), clip_norm=0.1)
    train(other, Sinusoid(), clip_norm=0.1, on_nonfinite="clip")
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_replica_whose_gradient_is_not_finite_ends_alone():
    objectives = [Objective(maml(loss=rooted, inner_lr=1e-9)) for _ in range(2)]
    curves = fit_together(
        objectives, [Sinusoid(), Faulty(value=0.0)], steps=4, meta_batch_size=4, clip_norm=10.0
    )
    assert curves[1].iloc[-1].tolist() == [3, "train", "diverged", 1.0]
    assert curves[0]["step"].max() == 4
    assert all(parameter.isfinite().all() for parameter in objectives[0].parameters())
    with pytest.raises(ReplicationError, match="no objective can skip a step alone"):
        fit_together(objectives, [Sinusoid()] * 2, steps=4, meta_batch_size=4, on_nonfinite="skip")


@pytest.mark.filterwarnings("ignore:1 of 5 validation tasks", "ignore:query.y of task 2 is not finite")
def test_validation_tasks_without_a_finite_score_are_told():
    validation = Validation(Faulty("val", number=2), n_tasks=5, every=2)
    with pytest.warns(
        UserWarning, match="1 of 5 validation tasks have no finite mse at step 2, first task 2"
    ):
        train(Objective(maml()), Sinusoid(), validation=validation)


def test_a_run_counts_skipped_steps(tmp_path):
    class Recipe(type(RECIPES["sinusoid-5shot"])):
        def distribution(self, split, seed):
            return Faulty(split, seed=seed) if split == "train" else super().distribution(split, seed)

    plain = RECIPES["sinusoid-5shot"]
    settings = {field.name: getattr(plain, field.name) for field in fields(plain) if field.init}
    recipe = replace(
        Recipe(**settings), seeds=[0], steps=4, meta_batch_size=4, n_val_tasks=0, n_test_tasks=5,
        regularizers=["none"], on_nonfinite="skip",
    )  # fmt: skip
    with pytest.warns(UserWarning, match="the step is skipped"):
        run(recipe, tmp_path)
    assert faults_in_words(read_metrics(tmp_path)) == [
        "MAML: loss or gradient was not finite in 1 step, which was skipped (seed 0: 1 of 4, the first at "
        "step 3)."
    ]
