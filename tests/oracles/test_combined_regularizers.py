"""Regularizers act together: every term of each is there, and finite."""

from itertools import combinations

import pytest
import torch
from catalogue import LEARNERS, REFUSALS, REGULARIZERS
from small_networks import build_network, classification_tasks, regression_tasks

from metalens import MAML, MLTI, MetaAug, MetaMix, Objective, TRLearner

NAMES = [
    name
    for name in REGULARIZERS
    if name != "none"
    and not any(refusal.covers("MAML", name, "mlp", "classification") for refusal in REFUSALS)
]


def terms_of(*names: str) -> dict[str, torch.Tensor]:
    learner = LEARNERS["MAML"].build(build_network("mlp"))
    regularizers = [regularizer for name in names for regularizer in REGULARIZERS[name].build(learner)]
    return Objective(learner, regularizers).double()(classification_tasks("mlp"))


@pytest.mark.parametrize(("one", "other"), list(combinations(NAMES, 2)))
def test_two_regularizers_give_the_terms_of_both(one, other):
    terms = terms_of(one, other)
    assert terms.keys() == terms_of(one).keys() | terms_of(other).keys()
    assert all(term.shape == () and term.isfinite() for term in terms.values())


@pytest.mark.parametrize("tasks", [classification_tasks("mlp"), regression_tasks("mlp")])
def test_augmentations_combine_with_trlearner_in_any_order(tasks):
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        learner = MAML(build_network("mlp"), inner_lr=0.1)
        regularizers = [MLTI(), MetaAug(), TRLearner(), MetaMix()]
        objective = Objective(learner, [regularizers[place] for place in order]).double()
        terms = objective(tasks)
        assert terms.keys() == {"query", "trlearner"}
        sum(terms.values()).backward()
        gradients = [p.grad for p in objective.parameters()]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
