"""Layers that keep a state, or differ in training: as the others train, or refused by name."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from wrapping import EXAMPLE, of, text_tasks, wrapped

from metalens import ANIL, MAML, MetaLensError, Objective, TRLearner, wrap
from metalens.networks.modes import module_mode
from metalens.objective import outer_loss


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
