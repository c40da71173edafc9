"""MetaCRL against its losses written as loops in NumPy."""

import math

import numpy as np
import pytest
import torch
from small_networks import N_WAY, build_network, classification_tasks, regression_tasks

from metalens import (
    ANIL,
    MAML,
    AdaptedTasks,
    Examples,
    MetaCRL,
    MetaLensError,
    Objective,
    ProtoNet,
    Reptile,
    Task,
    mlp,
)

SETTINGS = {
    "weight": 0.7, "n_factors": 3, "hidden": 5, "orthogonality": 1.3, "sparsity": 0.4, "invariance": 2.1,
    "ridge": 0.3,
}  # fmt: skip


def built(learner, **settings) -> MetaCRL:
    torch.manual_seed(5)
    return bound(MetaCRL(**(SETTINGS | settings)), learner).double()


def bound(crl: MetaCRL, learner) -> MetaCRL:
    crl.bind(learner)
    return crl


def targets(y: np.ndarray) -> np.ndarray:
    return y if y.dtype.kind == "f" else np.eye(N_WAY)[y]


def by_loops(learner, crl: MetaCRL, tasks: Task) -> tuple[float, float]:
    xi = crl.factors.detach().numpy()
    first, second = (
        [p.detach().numpy() for p in layer.parameters()] for layer in (crl.grouping[0], crl.grouping[2])
    )
    n_factors = xi.shape[1]
    overlap = sum(abs(xi[:, k] @ xi[:, m]) for k in range(n_factors) for m in range(k + 1, n_factors))
    sparsity = causal = 0.0
    for i in range(4):
        support, query = (learner.embed(examples.x[i]).detach().numpy() @ xi for examples in tasks[:2])
        y, query_y = (targets(examples.y[i].numpy()) for examples in tasks[:2])
        hidden = np.tanh(first[0] @ support.mean(0) + first[1])
        a = 1 / (1 + np.exp(-(second[0] @ hidden + second[1])))
        sparsity += sum(v + v * math.log(v) for v in a) / 4
        c, query_c = support * a, query * a
        # Ridge regression as least squares with further rows.
        n = len(c)
        rows = np.vstack([c / np.sqrt(n), np.sqrt(crl.ridge) * np.eye(n_factors)])
        right = np.vstack([y / np.sqrt(n), np.zeros((n_factors, y.shape[1]))])
        w = np.linalg.lstsq(rows, right, rcond=None)[0]

        def risk(scale, w=w, c=query_c, y=query_y):
            return np.mean([np.sum((scale * w.T @ c[j] - y[j]) ** 2) for j in range(len(c))])

        slope = (risk(1.5) - risk(0.5)) / 1.0  # exact for a quadratic
        causal += (risk(1.0) + slope**2) / 4
    disentangle = crl.orthogonality * overlap + crl.sparsity * sparsity
    return crl.weight * disentangle, crl.weight * crl.invariance * causal


@pytest.mark.parametrize("network", ["mlp", "conv-norm"])
@pytest.mark.parametrize("make", [MAML, ANIL, ProtoNet])
@pytest.mark.parametrize("kind", [classification_tasks, regression_tasks])
def test_equals_loops(network, make, kind):
    if make is ProtoNet and kind is regression_tasks:
        pytest.skip("a classifier")
    learner, tasks = make(build_network(network)), kind(network)
    crl = built(learner)
    terms = crl.loss_terms(AdaptedTasks(learner, tasks))
    disentangle, invariance = by_loops(learner, crl, tasks)
    assert terms.keys() == {"metacrl_disentangle", "metacrl_invariance"}
    np.testing.assert_allclose(terms["metacrl_disentangle"].item(), disentangle, rtol=1e-9)
    np.testing.assert_allclose(terms["metacrl_invariance"].item(), invariance, rtol=1e-9)


def test_both_terms_train_factors_grouping_and_backbone():
    learner, tasks = ANIL(build_network("mlp")), regression_tasks("mlp")
    crl = built(learner)
    terms = crl.loss_terms(AdaptedTasks(learner, tasks))
    parameters = [
        crl.factors,
        crl.grouping[0].weight,
        crl.grouping[2].bias,
        learner.network.backbone[0][0].weight,
    ]
    for term in terms.values():
        for gradient in torch.autograd.grad(term, parameters, retain_graph=True):
            assert gradient.any()


def test_assignments_are_finite_where_the_sigmoid_is_zero():
    learner, tasks = ANIL(mlp(5, N_WAY, [8])), regression_tasks("mlp")
    tasks = Task(*(Examples(x.float(), y.float()) for x, y in tasks[:2]))
    crl = bound(MetaCRL(n_factors=3), learner)
    with torch.no_grad():
        crl.grouping[2].bias.fill_(-300.0)
    loss = sum(crl.loss_terms(AdaptedTasks(learner, tasks)).values())
    gradients = torch.autograd.grad(loss, list(crl.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_network_stays():
    network = build_network("mlp")
    names = [name for name, _ in network.named_parameters()]
    objective = Objective(MAML(network), [MetaCRL(n_factors=7)])
    assert objective.learner.network is network
    assert [name for name, _ in network.named_parameters()] == names


def test_defaults_and_scale_of_the_factors():
    crl = bound(MetaCRL(), MAML(mlp()))
    assert (crl.weight, crl.orthogonality, crl.sparsity, crl.invariance, crl.ridge) == (
        0.1,
        1.0,
        0.1,
        1.0,
        0.1,
    )
    assert crl.factors.shape == (40, 8)
    assert [tuple(p.shape) for p in crl.grouping.parameters()] == [(32, 8), (32,), (8, 32), (8,)]
    torch.manual_seed(0)
    lengths = bound(MetaCRL(n_factors=4), MAML(mlp(hidden=[2000]))).factors.norm(dim=0)
    assert bool(((lengths - 1).abs() < 0.1).all())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_factors": 0}, "n_factors must be at least 1, got 0"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        (
            {"n_factors": 11},
            "n_factors must be at most the number of features, 10, got 11; more .* orthogonal",
        ),
        ({"weight": -0.1}, "weight must be 0 or more and finite, got -0.1"),
        ({"orthogonality": math.inf}, "orthogonality must be 0 or more and finite, got inf"),
        ({"sparsity": -1}, "sparsity must be 0 or more and finite, got -1"),
        ({"invariance": -1}, "invariance must be 0 or more and finite, got -1"),
        ({"ridge": 0}, "ridge must be above 0 and finite, got 0"),
        ({"ridge": math.inf}, "ridge must be above 0 and finite, got inf"),
    ],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(MetaLensError, match=rf"^MetaCRL: {words}\.$"):
        bound(MetaCRL(**settings), MAML(mlp(hidden=[10])))


def test_smallest_settings():
    crl = MetaCRL(n_factors=1, hidden=1, weight=0, orthogonality=0, sparsity=0, invariance=0)
    bound(crl, MAML(mlp(hidden=[1])))
    assert crl.factors.shape == (1, 1)


def test_learner_is_checked():
    with pytest.raises(MetaLensError, match=r"^MetaCRL cannot act on Reptile: it has no outer loss"):
        Objective(Reptile(mlp()), [MetaCRL()])
    words = r"^MetaCRL: its factors are of 9 features, but this MAML has 40; make a new MetaCRL.$"
    with pytest.raises(MetaLensError, match=words):
        Objective(MAML(mlp()), [bound(MetaCRL(), MAML(mlp(hidden=[9])))])
