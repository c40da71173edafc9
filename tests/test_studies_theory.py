"""Studies of the theory against its formulas and claims: linear models, excess risk and shared features."""

import itertools
from dataclasses import replace

import numpy as np
import torch

from paper import get_study
from paper.excess_risk import ACCURATE, ALONE, SHUFFLED, UNIFORM, solve
from paper.shared_features import OTHER, OWN, RANDOM


def test_linear_models_minimize_the_objective_of_trlearner():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 6, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(2, 4, 6, 1, generator=generator, dtype=torch.float64)
    matrix = torch.rand(2, 4, 4, generator=generator, dtype=torch.float64)
    gram, moment = x.mT @ x / 6, (x.mT @ y / 6).squeeze(-1)
    w = solve(gram, moment, matrix, weight=0.7, ridge=0.05).requires_grad_()
    total = 0
    for r in range(2):
        for i in range(4):
            related = [p for p in range(4) if p != i]
            average = sum(matrix[r, i, p] * w[r, p] for p in related) / sum(matrix[r, i, p] for p in related)
            for model, weight in ((w[r, i], 1), (average, 0.7)):
                total = total + weight * (x[r, i] @ model - y[r, i, :, 0]).square().mean()
            total = total + 0.05 * w[r, i].square().sum()
    (gradient,) = torch.autograd.grad(total, w)
    assert gradient.abs().max() < 1e-12


def test_accurate_relations_have_the_smallest_excess_risk_where_tasks_spread():
    """Theorems 2 and 3 at a confidence of 99.9 %: 20 × 30 independent repetitions."""
    chosen = replace(get_study("theory-excess-risk"), repetitions=30)
    risks = {name: [] for name in (ACCURATE, UNIFORM, SHUFFLED, ALONE)}
    for seed in range(20):
        generator = torch.Generator().manual_seed(1000 + seed)
        for name, risk in chosen.excess_risks(generator, spread=1.0, n_samples=5, n_tasks=20).items():
            risks[name].append(risk.mean().item())
    accurate = np.array(risks.pop(ACCURATE))
    for name, others in risks.items():
        change = np.array(others) - accurate
        assert change.mean() > 3.883 * change.std(ddof=1) / np.sqrt(20), (
            name
        )  # t of 19 degrees, 99.9 % two-sided


def test_the_average_is_of_the_others_own_models():
    chosen = replace(get_study("theory-excess-risk"), repetitions=2, n_features=1, noise=0.0, ridge=1e-12)
    found = chosen.excess_risks(torch.Generator().manual_seed(0), spread=0.0, n_samples=2, n_tasks=4)
    for name, risk in found.items():  # without noise, ridge and spread every model is the truth
        assert risk.max() < 1e-12, name
    joint = replace(chosen, estimator="joint", noise=0.5)
    risks = joint.excess_risks(torch.Generator().manual_seed(0), spread=1.0, n_samples=2, n_tasks=4)
    assert not torch.equal(risks[ACCURATE], risks[UNIFORM])


def test_without_spread_the_kind_of_relations_does_not_matter():
    chosen = replace(get_study("theory-excess-risk"), repetitions=5)
    generator = torch.Generator().manual_seed(0)
    risks = chosen.excess_risks(generator, spread=0.0, n_samples=5, n_tasks=10)
    for name in (UNIFORM, SHUFFLED):
        torch.testing.assert_close(risks[name], risks[ACCURATE])


def test_the_gain_by_shared_features_grows_with_similarity():
    """Theorem 1 at a confidence of 99.9 %: 20 × 100 independent repetitions."""
    chosen = replace(get_study("theory-shared-features"), repetitions=100)
    gains, randoms = [], []
    for similarity in (0.0, 0.5, 1.0):
        accuracies = [
            chosen.accuracies(torch.Generator().manual_seed(2000 + seed), similarity, n_samples=10)
            for seed in range(20)
        ]
        gains.append([(each[OTHER] - each[OWN]).mean().item() for each in accuracies])
        randoms.append([(each[RANDOM] - each[OWN]).mean().item() for each in accuracies])
    for lower, higher in itertools.pairwise(gains):
        change = np.array(higher) - np.array(lower)
        assert change.mean() > 3.883 * change.std(ddof=1) / np.sqrt(20)
    most = np.array(gains[-1])
    assert most.mean() > 3.883 * most.std(ddof=1) / np.sqrt(20)
    assert np.mean(randoms) < 0
