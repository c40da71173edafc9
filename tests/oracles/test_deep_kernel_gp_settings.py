"""Settings of DeepKernelGP: defaults, and what is refused."""

import math

import pytest
import torch
from small_networks import N_WAY

from metalens import DeepKernelGP, Examples, MetaLensError, mlp


def test_defaults():
    learner = DeepKernelGP(mlp(5, N_WAY, [8]))
    assert (learner.kernel, learner.domain_kernel, learner.objective) == ("rbf", "none", "marginal")
    assert (learner.inner_steps, learner.inner_lr, learner.n_outputs) == (0, 0.1, N_WAY)
    starts = {name: value.tolist() for name, value in learner.hyperparameters.items()}
    noise = pytest.approx([math.log(0.1)])
    assert starts == {
        "mean": [0.0] * N_WAY, "log_noise": noise, "log_amplitude": [0.0], "log_length_scale": [0.0]
    }  # fmt: skip
    assert not [name for name, _ in learner.named_parameters() if "head" in name]
    domain = DeepKernelGP(mlp(), kernel="linear", domain_kernel="rbf", noise=0.5).hyperparameters
    assert {name: value.tolist() for name, value in domain.items()} == {
        "mean": [0.0],
        "log_noise": pytest.approx([math.log(0.5)]),
        "log_amplitude": [0.0],
        "domain_log_amplitude": [0.0],
        "domain_log_length_scale": [0.0],
    }
    support = Examples(torch.randn(10, 5), torch.arange(10) % 5)
    assert DeepKernelGP(mlp(5, 3, [8]), n_outputs=5)(support)(support.x).shape == (10, 5)
    one = Examples(torch.randn(4, 5), torch.randn(4, 1))
    assert DeepKernelGP(mlp(5, 3, [8]), n_outputs=1)(one)(one.x).shape == (4, 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kernel": "none"}, "^DeepKernelGP: kernel must be one of rbf, matern52, linear, got 'none'.$"),
        ({"kernel": "tanimoto"}, "kernel must be one of"),
        (
            {"domain_kernel": "matern52"},
            "^DeepKernelGP: domain_kernel must be one of none, rbf, linear, tanimoto, got ",
        ),
        ({"mean": "x"}, "^DeepKernelGP: mean must be one of constant, network, got 'x'.$"),
        ({"objective": "x"}, "^DeepKernelGP: objective must be one of marginal, predictive, got 'x'.$"),
        ({"inner_lr": 0.0}, "^DeepKernelGP: inner_lr must be above 0 and finite, got 0.0.$"),
        ({"inner_lr": math.inf}, "inner_lr must be above 0 and finite, got inf"),
        ({"noise": 0.0}, "^DeepKernelGP: noise must be above 0 and finite, got 0.0.$"),
        ({"noise": math.nan}, "noise must be above 0 and finite, got nan"),
        ({"inner_steps": -1}, "^DeepKernelGP: inner_steps must be 0 or more, got -1.$"),
        ({"n_outputs": 0}, "^DeepKernelGP: n_outputs must be at least 1, got 0.$"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(MetaLensError, match=words):
        DeepKernelGP(mlp(), **settings)


def test_targets_that_do_not_fit_are_refused():
    with pytest.raises(MetaLensError, match="Class targets need one output per class"):
        DeepKernelGP(mlp(5, 1)).adapt(Examples(torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64)))
    with pytest.raises(MetaLensError, match=r"Real targets must have the shape of the predictions, \(4, 1\)"):
        DeepKernelGP(mlp(5, 1)).adapt(Examples(torch.zeros(4, 5), torch.zeros(4)))
