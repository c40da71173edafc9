"""What holds for every learner with every regularizer."""

import io

import pytest
import torch
from torch.utils import _pytree as pytree

from metalens import AdaptedTasks, Examples, NetworkLearner


def support_of(tasks, number: int) -> Examples:
    return Examples(tasks.support.x[number], tasks.support.y[number])


def test_training_touches_nothing_and_reaches_every_parameter(trainable_case):
    objective, tasks = trainable_case.objective(), trainable_case.tasks()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    trainable_case.loss(objective, tasks).backward()
    objective.learner(support_of(tasks, 0))
    after = objective.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    trainable = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    without = [name for name, p in trainable.items() if p.grad is None or not p.grad.any()]
    # A bias before batch or instance normalization, and the key bias of attention, cancel exactly.
    assert not [name for name in without if not name.endswith("bias") or "head" in name]


def permuted(tasks):
    return pytree.tree_map(lambda tensor: tensor[torch.tensor([2, 0, 3, 1])], tasks)


def test_permuting_tasks_keeps_the_loss(repeatable_case):
    objective, tasks = repeatable_case.objective(), repeatable_case.tasks()
    torch.testing.assert_close(
        repeatable_case.loss(objective, permuted(tasks)), repeatable_case.loss(objective, tasks)
    )


def test_permuting_tasks_permutes_predictions(learner_case):
    objective, tasks = learner_case.objective(), learner_case.tasks()
    predictions, others = (
        AdaptedTasks(objective.learner, batch).query_predictions for batch in (tasks, permuted(tasks))
    )
    torch.testing.assert_close(others, permuted(predictions))


def test_weight_zero_equals_no_regularizer(weighted_case):
    objective, tasks = weighted_case.objective(), weighted_case.tasks()
    for regularizer in objective.regularizers:
        regularizer.weight = 0.0
    plain = AdaptedTasks(objective.learner, tasks).outer_loss
    torch.testing.assert_close(weighted_case.loss(objective, tasks), plain)


def test_state_dict_round_trip(trainable_case):
    objective, tasks = trainable_case.objective(), trainable_case.tasks()
    file = io.BytesIO()
    torch.save(objective.state_dict(), file)
    file.seek(0)
    other = trainable_case.objective()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(trainable_case.loss(other, tasks), trainable_case.loss(objective, tasks))


def test_single_task_equals_its_place_in_the_batch(learner_case):
    objective, tasks = learner_case.objective(), learner_case.tasks()
    objective.eval()
    predictions = AdaptedTasks(objective.learner, tasks).query_predictions
    model = objective.learner(support_of(tasks, 2))
    torch.testing.assert_close(model(tasks.query.x[2]), predictions[2])


def test_evaluation_without_an_outer_graph_gives_the_same_predictions(learner_case):
    objective, tasks = learner_case.objective(), learner_case.tasks()
    objective.eval()
    with torch.no_grad():
        predictions = AdaptedTasks(objective.learner, tasks).query_predictions
    assert not predictions.requires_grad
    torch.testing.assert_close(predictions, AdaptedTasks(objective.learner, tasks).query_predictions.detach())


def test_hidden_activations_lead_to_the_same_predictions(learner_case):
    objective, tasks = learner_case.objective().eval(), learner_case.tasks()
    learner, x = objective.learner, tasks.query.x[0]
    if not isinstance(learner, NetworkLearner) or not learner.from_hidden:
        pytest.skip("cannot predict from activations alone; tests/oracles checks that it says so")
    state = learner.adapt(support_of(tasks, 0))
    for layer in range(learner.network.depth + 1):
        hidden = learner.hidden(state, x, layer)
        torch.testing.assert_close(learner.predict_hidden(state, hidden, layer), learner.predict(state, x))
