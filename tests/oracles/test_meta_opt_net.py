"""MetaOptNet against scikit-learn's machine of Crammer and Singer, and against the optimality conditions."""

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC
from small_networks import N_WAY, build_network, classification_tasks
from torch import Tensor, nn

from metalens import Examples, MetaLensError, MetaOptNet, Network, mlp
from metalens.learners.meta_opt_net import project_on_simplex


def identity_network(d: int, n_outputs: int = N_WAY) -> Network:
    """Features are the inputs."""
    network = Network(nn.Identity(), nn.Linear(d, n_outputs), n_features=d, n_outputs=n_outputs)
    return network.double()


def random_support(d: int, seed: int, spread: float) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(N_WAY).repeat_interleave(4)
    centers = torch.randn(N_WAY, d, generator=generator, dtype=torch.float64)
    return Examples(spread * torch.randn(len(y), d, generator=generator, dtype=torch.float64) + centers[y], y)


@pytest.mark.parametrize("cost", [0.1, 1.0, 10.0])
@pytest.mark.parametrize(("d", "spread"), [(3, 1.0), (20, 1.0), (3, 5.0)])
def test_equals_scikit_learn(cost, d, spread):
    """The I in the dual problem gives each example a feature of its own in the primal one."""
    x, y = random_support(d, 0, spread)
    learner = MetaOptNet(identity_network(d), cost=cost, solver_steps=2000).double()
    rows = np.concatenate([x.numpy() / d**0.5, np.eye(len(x))], axis=1)
    machine = LinearSVC(C=cost, multi_class="crammer_singer", fit_intercept=False, tol=1e-12, max_iter=10**6)
    expected = machine.fit(rows, y.numpy()).coef_[:, :d] / d**0.5
    found = learner.adapt(Examples(x, y))["weights"].detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def solution(learner: MetaOptNet, support: Examples) -> tuple[Tensor, Tensor, Tensor]:
    """The Gram matrix, the indicators, and P by the weights of examples with a feature of their own."""
    z, y = support
    gram = z @ z.T / z.shape[1] + torch.eye(len(z))
    indicators = torch.eye(N_WAY, dtype=z.dtype)[y]
    alpha = torch.linalg.lstsq(z.T / z.shape[1], learner.adapt(support)["weights"].T).solution
    return gram, indicators, indicators - alpha / learner.cost


@pytest.mark.parametrize("cost", [0.1, 1.0, 10.0])
def test_the_solution_is_optimal(cost):
    """The gradient by P is smallest where P is not 0, in every row."""
    learner = MetaOptNet(identity_network(20), cost=cost).double()
    gram, indicators, shares = solution(learner, random_support(20, 1, 2.0))
    assert shares.min() > -1e-9
    torch.testing.assert_close(shares.sum(1), torch.ones(12).double())
    gradient = gram @ (shares - indicators) + indicators / cost
    excess = gradient - gradient.amin(1, keepdim=True)
    assert (excess * (shares > 1e-8)).abs().max() < 1e-8
    assert ((shares > 1e-8).sum(1) > 1).any()  # some examples are on the margin


def test_the_gradient_is_that_of_the_solution():
    """Finite differences of logits of the problem, solved anew."""
    learner = MetaOptNet(identity_network(4), cost=1.0).double()
    x, y = random_support(4, 2, 1.0)
    query = torch.randn(5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def logits(inputs: Tensor) -> Tensor:
        return learner.predict_encoded(learner.adapt_encoded(inputs, y), query)

    assert torch.autograd.gradcheck(logits, x.requires_grad_())
    assert torch.autograd.gradgradcheck(logits, x)


def test_a_row_is_projected_on_the_nearest_probabilities():
    generator = torch.Generator().manual_seed(0)
    rows = 2 * torch.randn(200, 4, generator=generator, dtype=torch.float64)
    found = project_on_simplex(rows)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(200).double())
    others = torch.rand(500, 4, generator=generator, dtype=torch.float64)
    others = others / others.sum(1, keepdim=True)
    # The nearest point of a convex set: no other lies at less than a right angle.
    inner = ((rows - found)[:, None] * (others[None] - found[:, None])).sum(2)
    assert inner.max() < 1e-12


def test_a_class_that_a_support_lacks_has_no_positive_part():
    x, y = (part[0] for part in classification_tasks("mlp").support)
    learner = MetaOptNet(build_network("mlp"), cost=1.0).double()
    logits = learner(Examples(x[y != 1], y[y != 1]))(x[y != 1])
    assert logits.isfinite().all()
    assert (logits.argmax(1) != 1).all()


def test_single_precision_comes_near():
    support = random_support(20, 1, 2.0)
    learner = MetaOptNet(identity_network(20), cost=1.0).double()
    exact = learner.adapt(support)["weights"]
    single = learner.float().adapt(Examples(support.x.float(), support.y))["weights"]
    torch.testing.assert_close(single.double(), exact, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cost": 0.0}, "cost"),
        ({"scale": -1.0}, "scale"),
        ({"solver_steps": 0}, "solver_steps"),
        ({"n_way": 1}, "MetaOptNet needs at least 2 classes"),
    ],
)
def test_mistakes(settings, words):
    with pytest.raises(MetaLensError, match=words):
        MetaOptNet(mlp(3, 3), **settings)


def test_it_is_a_classifier():
    with pytest.raises(MetaLensError, match="MetaOptNet is a classifier, got real targets"):
        MetaOptNet(mlp(3, 3))(Examples(torch.zeros(2, 3), torch.zeros(2, 3)))
