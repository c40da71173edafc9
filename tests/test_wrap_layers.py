"""Layers that PyTorch differentiates wrongly: right, looped over or refused by name."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from wrapping import EXAMPLE, of, text_tasks, wrapped

from metalens import MAML, Examples, MetaLensError, Network, Objective, Task, wrap
from metalens.networks.safe import make_safe
from metalens.objective import outer_loss


class Text(nn.Module):
    """A mean of embedded words, and a head."""

    def __init__(self, embedding: nn.Module):
        super().__init__()
        self.embedding, self.fc = embedding, nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(self.embedding(x).mean(1).tanh())


def hidden_of(function):
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.g, self.v = nn.Parameter(torch.rand(5, 1) + 0.5), nn.Parameter(torch.randn(5, 5))

        def forward(self, x):
            return function(self, x)

    return Hidden()


# Second derivatives


@torch.no_grad()
def slope(objective, tasks, parameter, direction):
    value, losses = parameter.clone(), []
    for step in (1e-5, -1e-5):
        parameter.copy_(value + step * direction)
        losses.append(outer_loss(objective(tasks)))
    parameter.copy_(value)
    return (losses[0] - losses[1]) / 2e-5


SAFE = {
    "weight_norm": lambda: (parametrizations.weight_norm(nn.Linear(5, 5)), 5),
    "weight_norm of all": lambda: (parametrizations.weight_norm(nn.Linear(5, 5), dim=None), 5),
    "weight_norm of columns": lambda: (parametrizations.weight_norm(nn.Linear(5, 3), dim=1), 3),
    "spectral_norm": lambda: (parametrizations.spectral_norm(nn.Linear(5, 3)), 3),
    "spectral_norm of columns": lambda: (parametrizations.spectral_norm(nn.Linear(5, 3), dim=1), 3),
    "orthogonal": lambda: (parametrizations.orthogonal(nn.Linear(5, 5), orthogonal_map="cayley"), 5),
    "layer norm": lambda: (nn.LayerNorm(5), 5),
}


@pytest.mark.parametrize("plan", ["loop", "vmap"])
@pytest.mark.parametrize("layer", SAFE)
def test_meta_gradients_of_every_parameter_agree_with_differences(layer, plan):
    torch.manual_seed(1)
    middle, width = SAFE[layer]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some have no vectorized form
        network = wrap(of(middle, width), head="3", example=EXAMPLE).double()
    if plan == "vmap" and network.vmap_refusal is not None:
        pytest.skip(network.vmap_refusal)
    objective = Objective(MAML(network, inner_lr=0.1))
    objective.batching = plan
    x, y = torch.randn(2, 2, 6, 4).double(), torch.randn(2, 2, 6, 2).double()

    tasks = Task(Examples(x[0], y[0]), Examples(x[1], y[1])).as_batch()
    parameters = dict(objective.named_parameters())
    gradients = torch.autograd.grad(outer_loss(objective(tasks)), list(parameters.values()))
    for parameter, gradient in zip(parameters.values(), gradients, strict=True):
        for direction in torch.randn(2, *parameter.shape).double():
            expected = slope(objective, tasks, parameter, direction)
            torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("layer", [name for name in SAFE if name.startswith(("weight", "spectral"))])
def test_safe_forms_compute_what_pytorch_computes(layer):
    torch.manual_seed(2)
    middle, width = SAFE[layer]()
    middle(torch.randn(3, 5))
    for _ in range(200):  # of the power iteration
        middle.train()(torch.randn(3, 5))
    module = of(middle, width).eval()
    torch.testing.assert_close(wrapped(module).eval()(EXAMPLE), module(EXAMPLE), rtol=1e-4, atol=1e-5)


def test_weight_normalization_of_pytorch_is_wrong_and_measured_kind_by_kind():
    """When this fails, PyTorch has mended it, and its safe form can go."""
    hidden = hidden_of(lambda layer, x: x @ torch._weight_norm(layer.v, layer.g, 0).T)
    with pytest.warns(UserWarning, match=r"along a direction of its v of Hidden where finite differences"):
        wrap(of(hidden), head="3", example=EXAMPLE)


@pytest.mark.parametrize("padding", [0, 2, 6])
def test_padding_gets_no_gradient_whether_the_example_has_it_or_not(padding):
    torch.manual_seed(0)
    text = Text(nn.Embedding(7, 3, padding_idx=padding))
    example = torch.tensor([[1, 3, 4], [5, 1, 3], [4, 5, 5]])
    network = wrapped(text, "fc", example)
    torch.testing.assert_close(network(example), text(example))
    words = torch.randint(7, (2, 6, 4), generator=torch.Generator().manual_seed(3))
    words[:, :, 0] = padding
    results = {}
    for plan in ("loop", "vmap"):
        objective = Objective(MAML(network, inner_lr=0.1))
        objective.batching = plan
        results[plan] = torch.autograd.grad(
            outer_loss(objective(text_tasks(words))), network.backbone.embedding.weight
        )[0]
    torch.testing.assert_close(results["vmap"], results["loop"])
    assert results["loop"][padding].eq(0).all()
    assert results["loop"].ne(0).any()


@pytest.mark.parametrize("spoiled", ["functional padding", "select_scatter", "layer_norm", "batch_norm"])
def test_what_vmap_gets_wrong_is_looped_over(spoiled):
    class Functional(nn.Embedding):
        def forward(self, x):
            return F.embedding(x, self.weight, padding_idx=0)

    if spoiled == "functional padding":
        module, head, example = Text(Functional(7, 3)), "fc", torch.tensor([[1, 3, 4], [5, 1, 3], [4, 5, 5]])
    else:
        functions = {
            "select_scatter": lambda layer, x: torch.select_scatter(x @ layer.v, x[:, 0].sin(), 1, 0),
            "layer_norm": lambda layer, x: F.layer_norm(x @ layer.v, (5,), layer.g[:, 0], layer.v[0]),
            "batch_norm": lambda layer, x: F.batch_norm(
                x @ layer.v, None, None, layer.g[:, 0], layer.v[0], training=True
            ),
        }
        module, head, example = of(hidden_of(functions[spoiled])), "3", EXAMPLE
    with pytest.warns(UserWarning, match="Tasks will be looped over: torch.vmap gives wrong gradients"):
        assert MAML(wrap(module, head=head, example=example)).plan("auto") == "loop"


# Copies


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("how", ["weight_norm", "pruning", "by hand"])
def test_computed_tensors_are_refused_by_name(how):
    layer = nn.Linear(5, 5)
    if how == "weight_norm":
        layer = nn.utils.weight_norm(layer)
    elif how == "pruning":
        from torch.nn.utils import prune

        prune.l1_unstructured(layer, "weight", 0.5)
    else:
        layer.scale = layer.weight.exp()
    with pytest.raises(
        MetaLensError, match=r"1\.(weight|scale) of Sequential was computed from other tensors"
    ):
        wrap(of(layer), head="3", example=EXAMPLE)


@pytest.mark.parametrize(
    "layer",
    [
        parametrizations.weight_norm(nn.Linear(4, 4)),
        parametrizations.spectral_norm(nn.Linear(4, 4)),
        nn.Embedding(5, 4, padding_idx=1),
    ],
)
def test_they_are_refused_in_a_plain_network(layer):
    with pytest.raises(
        MetaLensError, match=r"backbone\.0\S* is a \w+, whose meta-gradients .* metalens.wrap"
    ):
        Network(nn.Sequential(layer), nn.Linear(4, 5), n_features=4, n_outputs=5)


def test_parameters_keep_their_names():
    module = of(parametrizations.weight_norm(nn.Linear(5, 5)))
    names = [name for name, _ in module.named_parameters()]
    make_safe(module)
    assert [name for name, _ in module.named_parameters()] == names
    assert parametrize.is_parametrized(module[1])
