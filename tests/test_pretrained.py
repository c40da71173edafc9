"""Pretrained backbones keep the statistics of their normalization."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from safetensors.torch import save_file
from small_timm import StandIn
from torch import nn

from metalens import (
    ANIL,
    BOIL,
    MAML,
    Examples,
    MAMLPlusPlus,
    MetaLensError,
    MetaSGD,
    Objective,
    ProtoNet,
    Task,
    timm_model,
    wrap,
)
from metalens.networks.norm import uses_batch_statistics
from metalens.tasks import stack_tasks


class Activated(nn.BatchNorm2d):
    """A layer derived from a normalization, as those of timm."""

    def forward(self, x):
        return super().forward(x).tanh()


def pretrained(norm=nn.BatchNorm2d, **settings) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), norm(4, **settings), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 3)
    )
    for _ in range(20):
        module(2 + 3 * torch.randn(16, 1, 8, 8))
    return module.eval()


X = 2 + 3 * torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
NORMS = {
    "batch": (nn.BatchNorm2d, {}),
    "instance": (nn.InstanceNorm2d, {"track_running_stats": True, "affine": True}),
    "batch without scale": (nn.BatchNorm2d, {"affine": False}),
    "derived": (Activated, {}),
}


def kept(name: str):
    norm, settings = NORMS[name]
    module = pretrained(norm, **settings)
    return module, wrap(module, head="4", example=X, norm_statistics="pretrained")


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_outputs_are_those_of_evaluation_in_both_modes(name, mode):
    module, network = kept(name)
    network.train(mode)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.testing.assert_close(network(X), module(X))
    torch.testing.assert_close(network(X[:1]), module(X[:1]))  # no input depends on others
    for name_of, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name_of], rtol=0, atol=0)
    assert not any(map(uses_batch_statistics, network.modules()))


@pytest.mark.parametrize("name", NORMS)
def test_copies_and_states_keep_the_statistics(name):
    module, network = kept(name)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        torch.testing.assert_close(twin.train()(X), module(X))
    assert any("running_mean" in key for key in network.state_dict())


def tasks() -> Task:
    g = torch.Generator().manual_seed(2)
    x, y = 2 + 3 * torch.randn(3, 6, 1, 8, 8, generator=g).double(), torch.arange(6).remainder(3).expand(3, 6)
    return Task(Examples(x, y), Examples(x.flip(1), y)).as_batch()


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_meta_gradients_are_those_of_finite_differences(name, batching):
    _, network = kept(name)
    objective = Objective(MAML(network.double(), inner_lr=0.05, inner_steps=2))
    objective.batching = batching
    weights = list(objective.parameters())
    slopes = torch.autograd.grad(objective(tasks())["query"], weights)
    torch.manual_seed(3)
    direction = [torch.randn_like(weight) for weight in weights]
    expected, values = sum((g * d).sum() for g, d in zip(slopes, direction, strict=True)), []
    with torch.no_grad():
        for step in (-1e-5, 2e-5):
            for weight, d in zip(weights, direction, strict=True):
                weight.add_(step * d)
            values.append(objective(tasks())["query"])
    torch.testing.assert_close((values[1] - values[0]) / 2e-5, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("make", [MAML, ANIL, ProtoNet])
def test_a_prediction_does_not_depend_on_the_others_of_its_call(make):
    _, network = kept("batch")
    support = Examples(X, torch.tensor([0, 1, 2, 0, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(network)(support)
        torch.testing.assert_close(model(X)[:1], model(X[:1]))


def test_a_loss_of_statistics_gives_a_warning_unless_it_is_meant():
    with pytest.warns(UserWarning, match="Sequential loses the running statistics of its normalization"):
        wrap(pretrained(), head="4", example=X)
    fresh = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    for module, settings in ((pretrained(), {"norm_statistics": "task"}), (fresh, {})):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            network = wrap(module, head=str(len(module) - 1), example=X, **settings)
        assert any(map(uses_batch_statistics, network.modules()))


def test_unknown_statistics_are_refused():
    with pytest.raises(MetaLensError, match="norm_statistics must be 'task', 'pretrained' or None, got 'x'"):
        wrap(pretrained(), head="4", example=X, norm_statistics="x")


class LoRA(nn.Module):
    """A linear layer with an update of low rank, which alone adapts."""

    def __init__(self, layer: nn.Linear, rank: int = 2):
        super().__init__()
        self.layer = layer
        self.lora_a = nn.Parameter(torch.randn(rank, layer.in_features))
        self.lora_b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x):
        return self.layer(x) + x @ self.lora_a.T @ self.lora_b.T


def low_rank():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), LoRA(nn.Linear(64, 6)), nn.Tanh(), LoRA(nn.Linear(6, 3)))
    return wrap(module, head="3", example=X)


@pytest.mark.parametrize("adapting", ["lora_", lambda name: "lora_" in name])
@pytest.mark.parametrize("make", [MAML, ANIL, MetaSGD, BOIL, MAMLPlusPlus])
def test_named_parameters_adapt_alone(make, adapting):
    learner = make(low_rank(), inner_lr=0.1, adapting=adapting)
    support = Examples(X, torch.tensor([0, 1, 2, 0, 1]))
    state = learner.adapt(support)
    names = [name for name, _ in learner.network.named_parameters() if "lora_" in name]
    own = {ANIL: "head.", BOIL: "backbone."}.get(make, "")
    assert {name.partition(":")[2] or name for name in state} == {n for n in names if n.startswith(own)}
    loss = Objective(learner)(stack_tasks([Task(support, support)]))["query"]
    loss.backward()
    assert all(p.grad is not None for p in learner.network.parameters())  # the outer loop trains the others


def test_a_selection_of_nothing_is_refused():
    with pytest.raises(MetaLensError, match=r"nothing to adapt: adapting='lora' selects none .*; the net"):
        MAML(wrap(pretrained(), head="4", example=X, norm_statistics="task"), adapting="lora")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("n_way", [3, 5])
def test_timm_loads_weights_from_a_file(stand_in, tmp_path, suffix, n_way):
    source = StandIn(3, 2, None, n_heads=1)
    path = tmp_path / f"weights{suffix}"
    save_file(source.state_dict(), path) if suffix == ".safetensors" else torch.save(
        source.state_dict(), path
    )
    network = timm_model("free", n_way, in_channels=2, weights=path)
    torch.testing.assert_close(network.backbone.stem.weight, source.stem.weight)
    assert torch.equal(network.head.weight, source.fc.weight) is (n_way == 3) or n_way == 5
    assert network.n_outputs == n_way


def test_files_of_other_weights_are_refused(stand_in, tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(MetaLensError, match=r"weights\.safetensors does not hold weights of StandIn"):
        timm_model("free", weights=path)
    save_file(nn.Linear(2, 3).state_dict(), path)
    with pytest.raises(MetaLensError, match=r"not hold weights of StandIn .*stem\.weight, stem\.bias, "):
        timm_model("free", weights=path)


def test_statistics_that_are_not_there_cannot_be_kept():
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    for one in (module, nn.Sequential(module[0], nn.BatchNorm2d(4, track_running_stats=False), *module[2:])):
        with pytest.raises(MetaLensError, match="Sequential has no running statistics of data"):
            wrap(one, head="3", example=X, norm_statistics="pretrained")


@pytest.mark.parametrize("adapting", [["head"], "", 3])
def test_other_selections_are_refused(adapting):
    with pytest.raises(MetaLensError, match=r"MAML: adapting must be a part of names, such as 'head\.', or"):
        MAML(low_rank(), adapting=adapting)
