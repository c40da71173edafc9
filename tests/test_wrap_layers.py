"""Layers that PyTorch differentiates wrongly, or that keep a state: right, looped over or refused by name."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from metalens import (
    ANIL,
    MAML,
    Examples,
    Machine,
    MetaLensError,
    Network,
    Objective,
    Sinusoid,
    Task,
    TRLearner,
    fit,
    wrap,
)
from metalens.learners.base import module_mode
from metalens.networks.functional import functional_call
from metalens.networks.safe import make_safe
from metalens.objective import outer_loss

EXAMPLE = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def of(middle: nn.Module, width: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), middle, nn.Tanh(), nn.Linear(width, 2))


def wrapped(module: nn.Module, head: str = "3", example: torch.Tensor = EXAMPLE) -> Network:
    """Return the network, wrapped without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return wrap(module, head=head, example=example)


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


def text_tasks(words):

    y = torch.linspace(-1, 1, words[..., 0].numel() * 2).view(*words.shape[:2], 2)
    return Task(Examples(words, y), Examples(words.flip(1), y)).as_batch()


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


# State


class Mean(nn.Module):
    """A running mean that is assigned, in training."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


class MeanInPlace(Mean):
    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return x - self.mean


class LazyMean(nn.Module):
    """Made by the first call."""

    mean = None

    def forward(self, x):
        self.mean = x.detach().mean(0) if self.mean is None else 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


class Counter(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * (1 - 0.5**self.calls)


class Memory(nn.Module):
    """Keeps activations, in a list."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach())
        return x


class Clamped(nn.Module):
    """Changes a parameter in place."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x):
        with torch.no_grad():
            self.scale.sub_(0.01)
        return x * self.scale


class Momentum(nn.BatchNorm1d):
    """Keeps its statistics in another buffer."""

    def __init__(self, n):
        super().__init__(n)
        self.register_buffer("kept", torch.zeros(n))

    def forward(self, x):
        if self.training:
            self.kept = self.kept.lerp(x.detach().mean(0), 0.1)
        return (x - self.kept) * self.weight


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (Mean(), r"backbone\.1\.mean changes with every call in training mode"),
        (MeanInPlace(), r"backbone\.1\.mean changes with every call in training mode"),
        (LazyMean(), r"backbone\.1\.mean changes with every call in evaluation mode"),
        (Counter(), r"output for the same inputs changes from call to call in evaluation mode"),
        (Memory(), r"backbone\.1\.seen\[\d\] changes with every call in evaluation mode"),
        (Clamped(), r"backbone\.1\.scale changes with every call in evaluation mode"),
        (Momentum(5), r"backbone\.1\.kept changes with every call in training mode"),
        (nn.utils.spectral_norm(nn.Linear(5, 5)), r"backbone\.1\.weight\w* changes with every call in train"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_state_that_calls_change_is_refused_by_name(layer, named):
    with pytest.raises(MetaLensError, match=named):
        wrap(of(layer), head="3", example=EXAMPLE)


class Mask(nn.Module):
    """Made once, of ones."""

    mask = None

    def forward(self, x):
        if self.mask is None or self.mask.shape != x.shape[1:]:
            self.mask = torch.ones(x.shape[1:], dtype=x.dtype)
        return x * self.mask


class LayerDrop(nn.Module):
    """Left out at random, by a generator that is not PyTorch's."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, x):
        return x if self.training and random.random() < 0.5 else self.inner(x)


class Plane(nn.Module):
    """Attention by PyTorch's function, with its dropout."""

    def forward(self, x):
        x = x.unsqueeze(1)
        return F.scaled_dot_product_attention(x, x, x, dropout_p=0.2 * self.training).squeeze(1)


def transformer(**settings) -> nn.Module:
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = nn.Linear(4, 8)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **settings)
            self.fc = nn.Linear(8, 2)

        def forward(self, x):
            return self.fc(self.layer(self.rows(x).unsqueeze(1).expand(-1, 3, -1)).mean(1))

    return Sequence()


@pytest.mark.parametrize(
    ("module", "head"),
    [
        (of(nn.Dropout(0.3)), "3"),
        (of(nn.AlphaDropout(0.3)), "3"),
        (of(Mask()), "3"),
        (of(LayerDrop()), "3"),
        (of(parametrizations.spectral_norm(nn.Linear(5, 5))), "3"),
        (of(nn.BatchNorm1d(5)), "3"),
        (transformer(dropout=0.2), "fc"),
        (transformer(dropout=0.2, norm_first=True), "fc"),
    ],
    ids=str,
)
@pytest.mark.parametrize("learner", [MAML, ANIL])
def test_what_differs_in_training_trains_as_the_others_do(module, head, learner):
    """Related tasks, too: every model on the inputs of every task, where randomness is nested."""
    network = wrapped(module, head)
    objective = Objective(learner(network), [TRLearner(weight=0.1)])
    tasks = text_tasks(torch.randn(4, 5, 4))
    with module_mode(objective, training=True):
        for plan in ("loop", "vmap"):
            objective.batching = plan
            loss = outer_loss(objective(tasks))
            torch.autograd.grad(loss, list(objective.parameters()), materialize_grads=True)
            assert loss.isfinite()


def test_dropout_within_a_function_is_looped_over():
    with pytest.warns(UserWarning, match="Tasks will be looped over: an operation has no vectorized form"):
        wrap(of(Plane()), head="3", example=EXAMPLE)


def test_a_module_that_fails_in_training_only_is_refused():
    class Auxiliary(nn.Module):
        def forward(self, x):
            return (x, x) if self.training else x

    module = nn.Sequential(nn.Linear(4, 5), Auxiliary(), nn.Linear(5, 2))
    with pytest.raises(MetaLensError, match=r"The network fails in training mode: .* both modes must work"):
        wrap(module, head="2", example=EXAMPLE)


# Blocks in several places


def shared(kind: str) -> tuple[nn.Module, str]:
    block, act = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.PReLU()
    if kind == "a block":
        return nn.Sequential(nn.Linear(4, 4), block, block, block, nn.Linear(4, 2)), "4"
    if kind == "an activation":
        return nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 2)), "4"
    if kind == "a weight":
        module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
        module[2].weight = module[0].weight
        return module, "4"
    if kind == "a norm":
        norm = nn.LayerNorm(4)
        return nn.Sequential(nn.Linear(4, 4), norm, nn.Tanh(), nn.Linear(4, 4), norm, nn.Linear(4, 2)), "5"

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.again, self.fc = self.first, nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.again(self.first(x).tanh()))

    return Twice(), "fc"


KINDS = ["a block", "an activation", "a weight", "a norm", "two names"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_used_in_several_places_adapts_as_one(kind):
    """As an oracle, plain PyTorch: one step of gradient descent on the module itself."""
    torch.manual_seed(0)
    module, head = shared(kind)
    network = wrapped(module, head)
    x, y = torch.randn(6, 4), torch.randn(6, 2)
    F.mse_loss(module(x), y).backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= 0.1 * parameter.grad
    before = dict(network.named_parameters())

    model = MAML(network, inner_lr=0.1)(Examples(x, y))
    torch.testing.assert_close(model(x), module(x))
    after = dict(network.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_used_in_several_places_trains_and_compiles_the_same(kind):
    tasks, results = Sinusoid("train", k_shot=5, n_query=5), []
    for machine in (Machine(compile=False), Machine(batching="loop", compile=False)):
        torch.manual_seed(0)
        module, head = shared(kind)
        network = wrapped(nn.Sequential(nn.Linear(1, 4), module), f"1.{head}", torch.randn(4, 1))
        objective = Objective(MAML(network))
        objective.learner.loss = lambda predictions, y: F.mse_loss(predictions, y.expand_as(predictions))
        fit(objective, tasks, steps=2, meta_batch_size=2, seed=0, machine=machine)
        results.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    torch.testing.assert_close(*results)


def test_the_functional_call_of_pytorch_spoils_a_block_in_two_places():
    """When this fails, PyTorch has mended it, and `metalens.networks.functional` can go."""
    block = nn.Linear(2, 2)
    module, weight = nn.Sequential(block, nn.Tanh(), block), block.weight
    other = {"0.weight": torch.zeros(2, 2)}
    torch.func.functional_call(module, other, (torch.ones(1, 2),))
    assert block.weight is not weight
    block.weight = weight
    functional_call(module, other, (torch.ones(1, 2),))
    assert block.weight is weight


def test_a_head_whose_weight_is_that_of_the_backbone_cannot_adapt_alone():
    module = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    module[2].weight = module[0].weight
    network = wrapped(module, "2", torch.randn(4, 2))
    with pytest.raises(MetaLensError, match=r"ANIL .* head shares backbone\.0\.weight with the backbone"):
        ANIL(network)
    assert MAML(network).adapted_parameters()


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
