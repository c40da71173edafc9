"""Task samplers: which tasks make a batch, and what they count."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
from sampling import T, Weighing, objective_of

import metalens
from metalens import (
    ANIL,
    MAML,
    AdaptedTasks,
    Choice,
    HardMining,
    MetaLensError,
    Related,
    Sinusoid,
    TaskSampler,
    fit,
    fit_together,
)
from metalens.adapted_tasks import adapted_loss
from metalens.experiments import RECIPES
from metalens.experiments.arms import Arm, arms_of
from metalens.experiments.experiment import run
from metalens.processes import Processes
from metalens.samplers.base import adapted_candidates, window
from metalens.specs.calls import SAMPLERS, build_sampler, canonical
from metalens.statistics.arms import ARM
from paper.samplers import ATS, ASr, ats
from paper.samplers.gradients import task_gradients, task_losses, weights_of

# Every sampler, with settings for batches of 4 tasks.
CALLS = {
    "Uniform": {},
    "HardMining": {},
    "Related": {"anchors": 2, "neighbors": 1},
    "ASr": {"held_out": 3},
    "ASr of tasks": {"use": "tasks", "held_out": 3},
    "ASr of examples": {"use": "examples", "n_query_hat": 6, "held_out": 3},
    "ATS": {"held_out": 3},
    "DPP": {},
    "DPP of features": {"vectors": "features"},
    "DPP of descriptors": {"vectors": "descriptors"},
    "Related by relations": {"neighbors": 1, "by": "relations", "oversampling": 3},
}


def sampler_of(call) -> TaskSampler:
    return SAMPLERS[call.split()[0]](**CALLS[call])


class Recorder(TaskSampler):
    """Does as another sampler, and keeps what that chose."""

    def __init__(self, sampler):
        self.sampler, self.choices = sampler, []
        self.asks_model, self.weighs = sampler.asks_model, sampler.weighs

    def choose(self, objective, tasks, step, meta_batch_size):
        self.choices.append(self.sampler.choose(objective, tasks, step, meta_batch_size))
        return self.choices[-1]


def trained(call, seed=0, **settings):
    objective, recorder = objective_of(), Recorder(sampler_of(call))
    tasks = Sinusoid(seed=seed, n_train_tasks=20)
    before = torch.get_rng_state()
    fit(objective, tasks, steps=6, meta_batch_size=T, sampler=recorder, **settings)
    assert torch.equal(torch.get_rng_state(), before)
    weights = torch.cat([parameter.detach().flatten() for parameter in objective.parameters()])
    return recorder.choices, weights


def test_a_registered_sampler_can_be_named_in_text(monkeypatch):
    assert not {"ASr", "ATS", "DPP"} & {*metalens.__all__, *metalens.samplers.__all__}
    assert build_sampler("asr(held_out=3)").held_out == 3  # registered by `paper`
    monkeypatch.setitem(SAMPLERS, "Weighing", Weighing)
    assert canonical("weighing( )") == "Weighing"
    assert isinstance(build_sampler("Weighing"), Weighing)


def test_every_sampler_is_tried_here():
    assert {call.split()[0] for call in CALLS} == set(SAMPLERS)


@pytest.mark.parametrize("call", CALLS)
def test_the_same_seed_gives_the_same_batches(call):
    first, weights = trained(call)
    torch.rand(3)  # a global random state elsewhere changes nothing
    again, others = trained(call)
    assert torch.equal(weights, others)
    for one, other in zip(first, again, strict=True):
        assert list(one.numbers) == list(other.numbers)
        for left, right in zip(one[1:], other[1:], strict=True):
            assert (left is None and right is None) or torch.equal(left, right)
    for choice in first:
        assert len(choice.numbers) == len(set(choice.numbers)) == T
    if call not in ("Uniform", "ASr", "ASr of examples"):  # those take the tasks in turn
        other_tasks, _ = trained(call, seed=1)
        assert [list(one.numbers) for one in first] != [list(one.numbers) for one in other_tasks]


def test_uniform_is_the_default_and_takes_tasks_in_turn():
    choices, weights = trained("Uniform")
    assert [choice.numbers for choice in choices] == [range(n * T, (n + 1) * T) for n in range(6)]
    plain = objective_of()
    fit(plain, Sinusoid(n_train_tasks=20), steps=6, meta_batch_size=T)
    assert torch.equal(weights, torch.cat([p.detach().flatten() for p in plain.parameters()]))


@pytest.mark.parametrize("size", [3, 4, 10, 25])
def test_no_task_of_a_pool_is_a_candidate_twice_and_all_are_in_the_end(size):
    tasks = Sinusoid(n_train_tasks=10)
    seen = set()
    for step in range(30):
        targets = tasks.batch(window(tasks, step, size)).query.y[:, 0, 0].tolist()
        assert len(targets) == len(set(targets)) == min(size, 10)
        seen |= set(targets)
    assert len(seen) == 10
    assert window(Sinusoid(), 2, size) == range(2 * size, 3 * size)
    assert window(Sinusoid("test", n_train_tasks=10), 2, size) == range(2 * size, 3 * size)


def test_hard_mining_takes_the_largest_losses():
    objective, tasks = objective_of(), Sinusoid(seed=3)
    choice = HardMining(oversampling=3).choose(objective, tasks, step=2, meta_batch_size=T)
    candidates = range(2 * 3 * T, 3 * 3 * T)
    losses = {}
    for number in candidates:
        task = tasks[number]
        predictions = objective.learner.predict(objective.learner.adapt(task.support), task.query.x)
        losses[number] = (predictions - task.query.y).square().mean().item()
    assert choice.numbers == sorted(sorted(candidates, key=lambda n: -losses[n])[:T])


@pytest.mark.parametrize("by", ["descriptors", "relations"])
def test_related_tasks_meet(by):
    objective, tasks = objective_of(), Sinusoid(seed=3)
    sampler = Related(anchors=2, neighbors=2, by=by, oversampling=3)
    numbers = range(5 * 18, 6 * 18)
    if by == "descriptors":
        points = tasks.batch(numbers).descriptors.double().numpy()
        distances = ((points[:, None] - points[None]) ** 2).sum(-1)
    else:
        with torch.no_grad():
            adapted = AdaptedTasks(objective.learner, tasks.batch(numbers))
            distances = -objective.relation(adapted).numpy()
    expected, left = [], list(range(18))
    for _ in range(2):
        anchor = left.pop(0)
        expected.append(anchor)
        for _ in range(2):
            nearest = min(left, key=lambda other: distances[anchor, other])
            left.remove(nearest)
            expected.append(nearest)
    choice = sampler.choose(objective, tasks, step=5, meta_batch_size=6)
    assert choice.numbers == [numbers[place] for place in expected]


def test_without_a_number_of_anchors_the_batch_is_filled():
    choice = Related(neighbors=2).choose(objective_of(), Sinusoid(), step=0, meta_batch_size=5)
    assert len(set(choice.numbers)) == 5


@pytest.mark.parametrize("learner", [MAML, ANIL])
@pytest.mark.parametrize(
    "settings", [{"batching": "vmap"}, {"batching": "loop"}, {"batching": "vmap", "chunk": 3}, {"chunk": 1}]
)
def test_weighted_tasks_are_a_weighted_sum_however_they_are_mapped(learner, settings):
    objective = objective_of(learner=learner, **settings).double()
    tasks = Sinusoid().batch(range(T))
    tasks = torch.utils._pytree.tree_map(torch.Tensor.double, tasks)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    terms = objective(tasks, weights)
    gradient = torch.autograd.grad(sum(terms.values()), list(objective.parameters()))

    plain = objective_of(learner=learner).double()
    adapted = AdaptedTasks(plain.learner, tasks)
    cross = adapted.cross_predictions()
    matrix = plain.relation(adapted)
    query, consistency = 0.0, 0.0
    for i in range(T):
        y = tasks.query.y[i]
        query = query + weights[i] * (adapted.query_predictions[i] - y).square().mean()
        others = [p for p in range(T) if p != i]
        shares = matrix[i, others].clamp(min=0)
        average = sum(share * cross[i, p] for share, p in zip(shares, others, strict=True)) / shares.sum()
        consistency = consistency + weights[i] * (average - y).square().mean()
    expected = torch.autograd.grad(query + 0.1 * consistency, list(plain.parameters()))
    torch.testing.assert_close(terms["query"], query)
    torch.testing.assert_close(terms["trlearner"], 0.1 * consistency)
    torch.testing.assert_close(gradient, expected)


def test_equal_weights_are_no_weights():
    objective, tasks = objective_of(), Sinusoid().batch(range(T))
    weighted = objective(tasks, torch.full((T,), 1 / T))
    torch.testing.assert_close(weighted, objective(tasks))


def test_training_uses_weights_and_chosen_queries():
    objective, other = objective_of(), objective_of()
    fit(
        objective,
        Sinusoid(),
        steps=1,
        meta_batch_size=T,
        outer_optimizer="sgd",
        outer_lr=0.1,
        sampler=Weighing(),
    )
    batch = Sinusoid().batch(range(T))
    few = batch._replace(query=type(batch.query)(*(tensor[:, :2] for tensor in batch.query)))
    loss = sum(other(few, torch.tensor([0.1, 0.2, 0.3, 0.4])).values())
    gradient = torch.autograd.grad(loss, list(other.parameters()))
    for now, before, slope in zip(objective.parameters(), other.parameters(), gradient, strict=True):
        torch.testing.assert_close(now, before - 0.1 * slope)


def test_processes_get_their_shares_of_a_choice():
    tasks = Sinusoid()
    choice = Choice([7, 3, 11, 5])
    shares = [choice.batch(tasks, Processes(rank, 2)).query.y for rank in range(2)]
    assert torch.equal(torch.cat(shares), tasks.batch([7, 3, 11, 5]).query.y)


def test_related_batches_side_by_side_are_as_alone():
    def replicas():
        return [objective_of(seed) for seed in range(2)], [Sinusoid(seed=seed) for seed in range(2)]

    together, distributions = replicas()
    samplers = [Related(neighbors=1) for _ in together]
    fit_together(together, distributions, steps=5, meta_batch_size=T, samplers=samplers)
    alone, distributions = replicas()
    for one, tasks in zip(alone, distributions, strict=True):
        fit(one, tasks, steps=5, meta_batch_size=T, sampler=Related(neighbors=1))
    for one, other in zip(together, alone, strict=True):
        for left, right in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(left, right)


def test_weights_are_learned_that_help_held_out_tasks():
    objective, tasks, eta = objective_of(), Sinusoid(), 0.05
    sampler = ASr(lookahead=eta, lr=0.05)

    def loss_ahead(weights):
        with (
            adapted_candidates(objective, tasks, sampler.candidates(tasks, 0, T)) as adapted,
            adapted_candidates(objective, tasks, sampler.held_out_tasks(tasks, 0, T)) as held_out,
        ):
            gradient = weights @ task_gradients(adapted, adapted_loss)
            return task_losses(held_out, adapted_loss, weights_of(objective.learner) - eta * gradient).mean()

    for _ in range(50):  # of the same step, so that there is one thing to learn
        choice = sampler.choose(objective, tasks, 0, T)
    assert choice.weights.sum().item() == pytest.approx(1)
    assert loss_ahead(choice.weights) < loss_ahead(torch.full((T,), 1 / T)) - 1e-3


@pytest.mark.parametrize("usual", [-1e6, 1e6])
def test_the_scheduler_prefers_what_brings_more_than_usual(monkeypatch, usual):
    objective, tasks, order = objective_of(), Sinusoid(), torch.tensor([2, 5, 7, 1])
    monkeypatch.setattr(ats, "drawn", lambda logits, k, rng: order)
    sampler = ATS(lr=0.01)
    sampler._usual_reward = usual
    assert sampler.choose(objective, tasks, 0, T).numbers == [1, 2, 5, 7]
    with adapted_candidates(objective, tasks, sampler.candidates(tasks, 0, T)) as adapted:
        logits = sampler.weighting(ats.scheduler_scores(adapted)).detach()
    now, before = (ats.log_probability(each, order) for each in (logits, torch.zeros(4 * T)))
    assert (now > before) == (usual < 0)
    assert sampler._usual_reward == pytest.approx(0.9 * usual, rel=1e-3)


def test_chosen_examples_are_as_many_as_asked_for():
    choice = ASr(use="examples", n_query_hat=6).choose(objective_of(), Sinusoid(), 0, T)
    assert choice.queries.shape == (T, 6)
    assert all(len(set(row.tolist())) == 6 for row in choice.queries)
    batch, whole = choice.batch(Sinusoid()), Sinusoid().batch(choice.numbers)
    for task in range(T):
        assert torch.equal(batch.query.y[task], whole.query.y[task][choice.queries[task]])
    assert torch.equal(batch.support.x, whole.support.x)


TINY = {"steps": 2, "meta_batch_size": 4, "n_test_tasks": 4, "n_val_tasks": 3, "seeds": [0, 1]}


def test_a_recipe_compares_samplers_on_the_same_tasks(tmp_path):
    recipe = replace(
        RECIPES["sinusoid-5shot"],
        **TINY,
        regularizers=["none", "TRLearner"],
        sampler=["Uniform", "HardMining( oversampling=2)", "Related"],
    )
    names = ["Uniform", "HardMining(oversampling=2)", "Related"]
    arms = [Arm("MAML", regularizers, name) for regularizers in ("none", "TRLearner") for name in names]
    assert arms_of(recipe) == arms
    assert str(arms[4]) == "MAML + TRLearner + HardMining(oversampling=2)"
    run(recipe, tmp_path)
    for name in ("results", "metrics", "curves", "relations"):
        table = pd.read_csv(tmp_path / f"{name}.csv")
        found = table[ARM].drop_duplicates().itertuples(index=False, name=None)
        assert list(found) == [arm for arm in arms if name != "relations" or arm.regularizers == "TRLearner"]
    executions = {
        str(Arm(*(cell[key] for key in ARM))): cell["execution"]
        for cell in json.loads((tmp_path / "manifest.json").read_text())["cells"]
    }
    assert "side by side" in executions["MAML + TRLearner"]
    assert "side by side" not in executions["MAML + TRLearner + HardMining(oversampling=2)"]


def test_a_sampler_that_cannot_be_is_refused_before_a_recipe_runs(tmp_path):
    recipe = replace(RECIPES["sinusoid-5shot"], **TINY, sampler=["Related(anchors=3)"])
    with pytest.raises(MetaLensError, match="make 12 tasks"):
        run(recipe, tmp_path)
    with pytest.raises(MetaLensError, match="There is no task sampler 'Hard'; choose from"):
        arms_of(replace(recipe, sampler=["Hard"]))
    with pytest.raises(MetaLensError, match="sampler must name at least one"):
        replace(recipe, sampler=[])
