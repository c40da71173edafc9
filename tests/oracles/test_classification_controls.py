"""LabelSmoothing and CrossTaskConfidencePenalty against loops in NumPy, and what they are controls of."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from small_networks import N_TASKS, N_WAY, build_network, classification_tasks, regression_tasks
from torch.nn.functional import cross_entropy

from metalens import (
    MAML,
    AdaptedTasks,
    CrossTaskConfidencePenalty,
    Examples,
    LabelSmoothing,
    MetaLensError,
    Objective,
    Task,
    TRLearner,
)
from metalens.relations import Uniform


def maml() -> MAML:
    return MAML(build_network("mlp"), inner_lr=0.1, inner_steps=2)


def answers(learner: MAML, tasks: Task) -> np.ndarray:
    """Logits of model p on the queries of task i, `[i, p, j, c]`, by loops."""
    states = [learner.adapt(Examples(x, y)) for x, y in zip(tasks.support.x, tasks.support.y, strict=True)]
    return np.stack([[learner.predict(state, x).detach().numpy() for state in states] for x in tasks.query.x])


def price(logits: np.ndarray) -> float:
    """KL(uniform || p) of one answer."""
    return sum(1 / N_WAY * (np.log(1 / N_WAY) - log_p) for log_p in log_softmax(logits))


def test_label_smoothing_by_loops():
    learner, tasks = maml(), classification_tasks("mlp")
    logits = answers(learner, tasks)
    q = logits.shape[2]
    expected = sum(price(logits[i, i, j]) for i in range(N_TASKS) for j in range(q)) / (N_TASKS * q)
    own = LabelSmoothing(weight=0.3).loss_terms(AdaptedTasks(learner, tasks))["label_smoothing"]
    assert own.item() == pytest.approx(0.3 * expected, rel=1e-9)


def test_label_smoothing_is_cross_entropy_with_smoothed_targets():
    weight, tasks = 0.25, classification_tasks("mlp")
    terms = Objective(learner := maml(), [LabelSmoothing(weight=weight)])(tasks)
    predictions = AdaptedTasks(learner, tasks).query_predictions
    smoothed = cross_entropy(
        predictions.flatten(0, 1), tasks.query.y.flatten(), label_smoothing=weight / (1 + weight)
    )
    total = (1 + weight) * smoothed - weight * np.log(N_WAY)
    torch.testing.assert_close(terms["query"] + terms["label_smoothing"], total)


def test_others_entropy_by_loops():
    learner, tasks = maml(), classification_tasks("mlp")
    logits = answers(learner, tasks)
    q, total = logits.shape[2], 0.0
    for i in range(N_TASKS):
        for j in range(q):
            others = [logits[i, p, j] for p in range(N_TASKS) if p != i]
            total += price(sum(others) / len(others))
    own = CrossTaskConfidencePenalty(weight=0.3).loss_terms(AdaptedTasks(learner, tasks))[
        "cross_task_confidence"
    ]
    assert own.item() == pytest.approx(0.3 * total / (N_TASKS * q), rel=1e-9)


def test_others_entropy_is_uniform_trlearner_in_expectation_over_labels():
    """The mean over all class slots that a query may have, less the constant ln C; gradients as well."""
    learner, tasks = maml(), classification_tasks("mlp")
    literal = TRLearner(Uniform(), weight=0.4)
    losses = []
    for label in range(N_WAY):
        relabeled = Task(tasks.support, Examples(tasks.query.x, torch.full_like(tasks.query.y, label)))
        losses.append(literal.loss_terms(AdaptedTasks(learner, relabeled))["trlearner"])
    expected = torch.stack(losses).mean()
    own = CrossTaskConfidencePenalty(weight=0.4).loss_terms(AdaptedTasks(learner, tasks))[
        "cross_task_confidence"
    ]
    torch.testing.assert_close(own, expected - 0.4 * np.log(N_WAY))
    weights = list(learner.parameters())
    slopes = [torch.autograd.grad(loss, weights) for loss in (own, expected)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("kind", [LabelSmoothing, CrossTaskConfidencePenalty])
def test_refusals(kind):
    with pytest.raises(MetaLensError, match=f"{kind.__name__}: weight must be 0 or more"):
        kind(weight=-1.0)
    with pytest.raises(MetaLensError, match=f"{kind.__name__} is for classification, got real targets"):
        Objective(maml(), [kind()])(regression_tasks("mlp"))


def test_others_are_needed():
    one = Task(*(Examples(x[:1], y[:1]) for x, y in classification_tasks("mlp")[:2]))
    with pytest.raises(
        MetaLensError, match="CrossTaskConfidencePenalty needs a meta-batch of at least 2 tasks, got 1"
    ):
        Objective(maml(), [CrossTaskConfidencePenalty()])(one)
