"""MRMAML against plain learners on networks whose weights were moved by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from small_networks import NETWORKS, Recurrent, build_network, classification_tasks, regression_tasks
from torch import nn

from metalens import (
    ANIL,
    IMAML,
    MAML,
    MRMAML,
    Examples,
    MetaLensError,
    Network,
    Objective,
    Reptile,
    TNet,
    mlp,
    wrap,
)

BETA, SIGMA = 0.03, 0.2


def objective_of(make, network: Network, **settings) -> Objective:
    objective = Objective(make(network, inner_lr=0.1), [MRMAML(beta=BETA, initial_sigma=SIGMA, **settings)])
    return objective.double()


def weights_of(network: Network) -> dict[str, nn.Parameter]:
    return {name: p for name, p in network.backbone.named_parameters() if p.dim() >= 2}


def moved_by(network: Network, noises: dict[str, torch.Tensor]) -> Network:
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for name, weight in weights_of(twin).items():
            weight.add_(SIGMA * noises[name])
    return twin


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("make", [MAML, ANIL, TNet])
def test_equals_a_plain_learner_on_moved_weights(name, make):
    """A constant added to the weights commutes with gradient steps, so that MAML starts at mu + sigma e."""
    network, tasks = build_network(name), classification_tasks(name)
    before = copy.deepcopy(network)
    objective = objective_of(make, network)
    torch.manual_seed(7)
    noises = {key: torch.randn_like(weight) for key, weight in weights_of(before).items()}
    assert noises
    plain = moved_by(before, noises)
    reference = Objective(make(plain, inner_lr=0.1))(tasks)["query"]
    kl = sum(
        ((w**2).sum() + w.numel() * (SIGMA**2 - 1 - 2 * math.log(SIGMA))) / 2
        for w in weights_of(before).values()
    )

    torch.manual_seed(7)
    terms = objective(tasks)
    torch.testing.assert_close(terms["query"], reference, rtol=1e-10, atol=0)
    np.testing.assert_allclose(terms["mr_maml"].item(), BETA * kl.item(), rtol=1e-10)

    sum(terms.values()).backward()
    reference.backward()
    slopes = {key: weight.grad for key, weight in weights_of(plain).items()}
    means = {
        key.replace("parametrizations.", "").replace(".original", ""): p
        for key, p in weights_of(network).items()
    }
    assert means.keys() == noises.keys()
    for (key, noise), log_sigma in zip(noises.items(), objective.regularizers[0].log_sigmas, strict=True):
        mean = means[key]
        torch.testing.assert_close(mean.grad, slopes[key] + BETA * mean.detach())
        torch.testing.assert_close(log_sigma.grad, slopes[key] * SIGMA * noise + BETA * (SIGMA**2 - 1))


def test_every_step_draws_anew_and_evaluation_uses_the_mean():
    network, tasks = build_network("mlp"), regression_tasks("mlp")
    plain = copy.deepcopy(network)
    objective = objective_of(ANIL, network)
    x = tasks.query.x[0]
    torch.testing.assert_close(network.embed(x), plain.embed(x))  # nothing is drawn yet
    first, second = (objective(tasks)["query"].item() for _ in range(2))
    assert abs(first - second) > 1e-4
    assert not torch.allclose(network.embed(x), plain.embed(x))
    support = Examples(tasks.support.x[0], tasks.support.y[0])
    expected = ANIL(plain, inner_lr=0.1)(support)(x)
    torch.testing.assert_close(objective.learner(support)(x), expected)
    objective.learner.eval()
    torch.testing.assert_close(network.embed(x), plain.embed(x))
    torch.testing.assert_close(
        objective(tasks)["query"], Objective(ANIL(plain, inner_lr=0.1).eval())(tasks)["query"]
    )


def test_only_weights_of_the_backbone_are_moved_and_sigma_does_not_adapt():
    network = build_network("conv-norm")
    objective = objective_of(MAML, network)
    assert [tuple(s.shape) for s in objective.regularizers[0].log_sigmas] == [(4, 1, 3, 3)]
    assert all("sigma" not in name for name in objective.learner.adapted_parameters())
    assert len(objective.learner.adapted_parameters()) == 6
    sigmas = [name for name, _ in objective.named_parameters() if "sigma" in name]
    assert sigmas == ["regularizers.0.log_sigmas.0"]
    assert not [name for name in objective.state_dict() if "draws" in name]
    frozen = mlp(2, 1, [3, 4])
    frozen.backbone[0].requires_grad_(False)
    objective = objective_of(MAML, frozen)
    assert [tuple(s.shape) for s in objective.regularizers[0].log_sigmas] == [(4, 3)]


def test_a_copy_of_the_objective_stands_for_itself():
    objective, tasks = objective_of(MAML, build_network("mlp")), classification_tasks("mlp")
    sum(objective(tasks).values()).backward()
    twin = copy.deepcopy(objective)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.zero_()
    torch.manual_seed(1)
    first = sum(twin(tasks).values())
    with torch.no_grad():
        twin.regularizers[0].log_sigmas[0] += 1
    torch.manual_seed(1)
    terms = twin(tasks)
    assert abs(terms["query"] - first) > 1e-4
    assert terms["mr_maml"] > BETA * 1


def test_beta_zero_keeps_the_noise():
    tasks = classification_tasks("mlp")
    objective = objective_of(ANIL, build_network("mlp"))
    objective.regularizers[0].beta = 0.0
    terms = objective(tasks)
    assert terms["mr_maml"] == 0
    assert abs(terms["query"] - Objective(ANIL(build_network("mlp"), inner_lr=0.1))(tasks)["query"]) > 1e-4


def test_tasks_pass_unchanged():
    tasks = classification_tasks("mlp")
    assert MRMAML().transform_tasks(tasks) is tasks


def test_settings_and_defaults():
    assert (MRMAML().beta, MRMAML().initial_sigma) == (5e-5, 0.01)
    assert MRMAML(beta=0).beta == 0
    for beta in (-1.0, math.inf):
        with pytest.raises(MetaLensError, match=f"^MRMAML: beta must be 0 or more and finite, got {beta}.$"):
            MRMAML(beta=beta)
    for sigma in (0.0, math.inf):
        with pytest.raises(
            MetaLensError, match=f"^MRMAML: initial_sigma must be above 0 and finite, got {sigma}.$"
        ):
            MRMAML(initial_sigma=sigma)


@pytest.mark.filterwarnings("ignore:Tasks will be looped over")
def test_refusals():
    head_alone = Network(nn.Identity(), nn.Linear(2, 2), n_features=2, n_outputs=2)
    with pytest.raises(MetaLensError, match=r"^MRMAML cannot act on Reptile: it has no outer loss"):
        Objective(Reptile(mlp()), [MRMAML()])
    with pytest.raises(MetaLensError, match=r"two or more axes, and that of this MAML has none.$"):
        Objective(MAML(head_alone), [MRMAML()])
    with pytest.raises(
        MetaLensError, match=r"^MRMAML cannot act on IMAML, whose implicit .* sigma; use MAML.$"
    ):
        Objective(IMAML(mlp()), [MRMAML()])
    network = wrap(Recurrent(), head="fc", example=torch.randn(4, 1, 6, 6))
    with pytest.raises(MetaLensError, match=r"^MRMAML cannot act on rnn, a LSTM: .* use another backbone.$"):
        Objective(MAML(network), [MRMAML()])
    with pytest.raises(MetaLensError, match=r"^MRMAML: .* noise of another MRMAML; .* for every objective.$"):
        Objective(MAML(mlp()), [MRMAML(), MRMAML()])


def test_acts_on_one_learner_only():
    regularizer = MRMAML()
    Objective(MAML(mlp()), [regularizer])
    with pytest.raises(MetaLensError, match="it already acts on another learner; make a new one"):
        Objective(MAML(mlp()), [regularizer])
