"""Relations by regression against least squares by NumPy, and what the formula implies."""

import numpy as np
import pytest
import torch
from small_networks import build_network, classification_tasks, regression_tasks

from metalens import ANIL, MAML, AdaptedTasks, MetaLensError, TRLearner
from metalens.relations import Cosine, Shuffled, Stacked
from metalens.relations.slots import slot_maps
from metalens.relations.stacked import stacked_weights


def least_squares(predictions: np.ndarray, y: np.ndarray, center: np.ndarray, ridge: float) -> np.ndarray:
    """The weights of P models as the solution of rows for targets and rows for the ridge."""
    n, size = len(center), len(y)
    rows = predictions.reshape(n, -1).T / np.sqrt(size)
    rows = np.concatenate([rows, np.sqrt(ridge) * np.eye(n)])
    right = np.concatenate([y.ravel() / np.sqrt(size), np.sqrt(ridge) * center])
    return np.linalg.lstsq(rows, right, rcond=None)[0]


def adapted(make=MAML) -> AdaptedTasks:
    return AdaptedTasks(make(build_network("mlp")), regression_tasks("mlp"))


def support_predictions(one: AdaptedTasks) -> np.ndarray:
    """Entry [i, p] holds the predictions of model p for support i, by a loop."""
    x = one.tasks.support.x
    states = [{name: value[p] for name, value in one.states.items()} for p in range(len(x))]
    found = [[one.learner.predict(state, inputs).detach().numpy() for state in states] for inputs in x]
    return np.array(found)


@pytest.mark.parametrize("make", [MAML, ANIL])
@pytest.mark.parametrize("ridge", [1e-6, 0.3, 100.0])
@pytest.mark.parametrize("toward", [None, Cosine(learned=False)])
def test_weights_are_those_of_least_squares(make, ridge, toward):
    one = adapted(make)
    matrix = Stacked(ridge=ridge, toward=toward)(one).detach().numpy()
    predictions, n = support_predictions(one), one.n_tasks
    known = None if toward is None else toward(one).detach().numpy().clip(min=0)
    for i in range(n):
        others = [p for p in range(n) if p != i]
        center = np.full(n - 1, 1 / (n - 1)) if known is None else known[i, others] / known[i, others].sum()
        expected = least_squares(predictions[i, others], one.tasks.support.y[i].numpy(), center, ridge)
        np.testing.assert_allclose(matrix[i, others], expected, rtol=1e-6, atol=1e-9)
        assert matrix[i, i] == 1


@pytest.mark.parametrize("shape", [(5, 3, 1), (2, 7, 2), (30, 4, 1)])
def test_more_models_than_examples_and_fewer(shape):
    rng = np.random.default_rng(0)
    predictions, y, center = rng.normal(size=shape), rng.normal(size=shape[1:]), rng.normal(size=shape[0])
    expected = least_squares(predictions, y, center, 0.2)
    found = stacked_weights(*(torch.from_numpy(part) for part in (predictions, y, center)), 0.2)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_a_strong_ridge_gives_the_weights_it_draws_to():
    one = adapted()
    matrix = Stacked(ridge=1e9)(one)
    torch.testing.assert_close(matrix, torch.full_like(matrix, 1 / 3).fill_diagonal_(1))


def test_without_examples_the_weights_are_those_it_draws_to():
    center = torch.tensor([0.2, 0.8])
    assert torch.equal(stacked_weights(torch.zeros(2, 0, 1), torch.zeros(0, 1), center, 0.3), center)


def test_the_term_uses_weights_as_they_are():
    one = adapted()
    relation = Stacked(ridge=0.01)
    weights = relation(one).detach().fill_diagonal_(0)
    assert (weights < 0).any()
    assert not torch.allclose(weights.sum(1), torch.ones(4, dtype=weights.dtype), atol=0.01)
    average = torch.einsum("ip,ipqc->iqc", weights, one.cross_predictions())
    expected = 0.7 * (average - one.tasks.query.y).square().mean()
    term = TRLearner(relation, weight=0.7).loss_terms(one)["trlearner"]
    torch.testing.assert_close(term, expected)


def test_shuffled_weights_keep_their_signs():
    one = adapted()
    torch.manual_seed(0)
    shuffled = Shuffled(Stacked(ridge=0.01))
    assert shuffled.signed
    assert (shuffled(one) < 0).any()


def test_the_relation_that_it_draws_to_is_trained():
    learner = MAML(build_network("mlp"))
    term = TRLearner(Stacked(toward=Cosine()))
    term.bind(learner)
    loss = term.double().loss_terms(AdaptedTasks(learner, regression_tasks("mlp")))["trlearner"]
    loss.backward()
    assert term.relation.toward.omega.grad.abs().max() > 0
    assert "trlearner_omega" in term.diagnostics(AdaptedTasks(learner, regression_tasks("mlp")))


@pytest.mark.parametrize("make", [MAML, ANIL])
def test_of_classes_the_weights_explain_the_support_by_what_slots_mean_there(make):
    one = AdaptedTasks(make(build_network("mlp")), classification_tasks("mlp"))
    matrix = Stacked(ridge=0.2)(one).detach().numpy()
    logits, n = support_predictions(one), one.n_tasks
    pi = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for i in range(n):
        y = np.eye(logits.shape[-1])[one.tasks.support.y[i].numpy()]
        counts = np.einsum("psk,sc->pkc", pi[i], y)
        meanings = counts / counts.sum(-1, keepdims=True)
        others = [p for p in range(n) if p != i]
        center = np.full(n - 1, 1 / (n - 1))
        expected = least_squares((pi[i] @ meanings)[others], y, center, 0.2)
        np.testing.assert_allclose(matrix[i, others], expected, rtol=1e-4, atol=1e-5)


def test_the_order_of_a_models_classes_does_not_matter():
    logits, y = torch.randn(5, 6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    turned = logits[..., [2, 0, 1]]
    same = [pi.softmax(-1) @ slot_maps(pi, y, 3) for pi in (logits, turned)]
    torch.testing.assert_close(*same)


def test_a_slot_that_no_example_is_assigned_to_says_nothing():
    logits = torch.tensor([[60.0, 0.0], [60.0, 0.0]], dtype=torch.float64)
    maps = slot_maps(logits, torch.tensor([0, 1]), 2)
    torch.testing.assert_close(maps, torch.full((2, 2), 0.5, dtype=torch.float64))


def test_mistakes():
    with pytest.raises(MetaLensError, match="ridge must be above 0"):
        Stacked(ridge=0.0)
    with pytest.raises(MetaLensError, match="neighbors chooses among relations, and those of Stacked"):
        TRLearner(Stacked(), neighbors=2)
