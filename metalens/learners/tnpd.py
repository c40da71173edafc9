"""Transformer neural processes with independent predictions."""

import torch
from torch import Tensor, nn

from metalens.errors import MetaLensError
from metalens.learners.base import Loss, State, task_loss
from metalens.learners.neural_process import NeuralProcess
from metalens.networks import Network
from metalens.networks.norm import make_norms_safe


class TNPD(NeuralProcess):
    """Read the support set in context: a transformer whose queries attend to the support alone.

    A support example is the token `e([g(x_i), y_i, 1])` and a query `e([g(x), 0, 0])`, with a perceptron e.
    In every layer the tokens of the support attend to each other, and those of queries to them:

        u = t + A(norm t, norm S), t' = u + mlp(norm u)

    with tokens t, those of the support S, multi-head attention A and layer normalization. A linear layer
    reads the mean and the spread of a Gaussian, or the logits of classes, see `NeuralProcess`. One further,
    learned token stands among those of the support: by its share of the attention the network knows how many
    examples there are, and the support may be empty.

    Support tokens have no positions, so their order does not matter; and queries do not see each other. The
    task state are the support tokens before every layer.

    Args:
        network: only its backbone g is used and kept.
        width: size of a token.
        depth: number of layers.
        n_heads: of the attention; it divides the width.
        n_outputs: see `NeuralProcess`.
        min_std: see `NeuralProcess`.
        loss: see `NeuralProcess`.

    Raises:
        MetaLensError: a setting is out of range, or targets do not fit `n_outputs`.

    >>> from metalens import TNPD, Sinusoid, mlp
    >>> task = Sinusoid("test", k_shot=5)[0]
    >>> learner = TNPD(mlp(), width=16, depth=2, n_heads=2)
    >>> learner(task.support)(task.query.x).shape
    torch.Size([15, 1])
    >>> {name: tuple(tokens.shape) for name, tokens in learner.adapt(task.support).items()}
    {'tokens.0': (6, 16), 'tokens.1': (6, 16)}

    Source: T. Nguyen, A. Grover, "Transformer Neural Processes: Uncertainty-Aware Meta Learning Via Sequence
    Modeling" (TNP-D), 2022, arXiv 2207.04179. Deviations: g reads inputs first; the mark 1 or 0 of support
    and query; the learned token; normalization before attention and perceptron, and at the end, not after
    each; GELU; no dropout; small sizes by default; classes.
    """

    def __init__(
        self,
        network: Network,
        *,
        width: int = 64,
        depth: int = 3,
        n_heads: int = 4,
        n_outputs: int | None = None,
        min_std: float = 0.05,
        loss: Loss = task_loss,
    ) -> None:
        super().__init__(network, n_outputs=n_outputs, min_std=min_std, loss=loss)
        if min(width, depth, n_heads) < 1 or width % n_heads:
            raise MetaLensError(
                "TNPD needs width, depth and n_heads of at least 1, and a width that n_heads divides, got "
                f"width={width}, depth={depth}, n_heads={n_heads}."
            )
        self.width, self.depth, self.n_heads = width, depth, n_heads
        example = next(network.parameters())
        n_inputs = network.n_features + self.n_outputs + 1
        self.embedding = nn.Sequential(nn.Linear(n_inputs, width), nn.GELU(), nn.Linear(width, width))
        self.start = nn.Parameter(torch.randn(1, width) / width**0.5)
        self.layers = nn.ModuleList(_Layer(width, n_heads) for _ in range(depth))
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * self.n_outputs))
        make_norms_safe(self)
        self.to(example)

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        marked = torch.cat([self.pairs(z, y), torch.ones_like(z[:, :1])], dim=1)
        tokens, state = torch.cat([self.start, self.embedding(marked)]), {}
        for place, layer in enumerate(self.layers):
            state[f"tokens.{place}"] = tokens
            if place < self.depth - 1:  # no query reads what comes after the last layer
                tokens = layer(tokens, tokens)
        return state

    def decode(self, state: State, z: Tensor) -> Tensor:
        tokens = self.embedding(torch.cat([z, z.new_zeros(z.shape[0], self.n_outputs + 1)], dim=1))
        for place, layer in enumerate(self.layers):
            tokens = layer(tokens, state[f"tokens.{place}"])
        return self.output(tokens)


class _Layer(nn.Module):
    """Attention to the tokens of the support, written out as fused attention has no second derivative."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width)
        self.queries, self.mixed = nn.Linear(width, width), nn.Linear(width, width)
        self.keys_values = nn.Linear(width, 2 * width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor, support: Tensor) -> Tensor:
        q = self.queries(self.norm(tokens)).unflatten(1, (self.n_heads, -1)).transpose(0, 1)  # (heads, n, d)
        pairs = self.keys_values(self.norm(support)).unflatten(1, (2, self.n_heads, -1))  # (s, 2, heads, d)
        k, v = pairs.permute(1, 2, 0, 3).unbind(0)  # (heads, s, d)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        tokens = tokens + self.mixed((weights @ v).transpose(0, 1).flatten(1))
        return tokens + self.mlp(tokens)
