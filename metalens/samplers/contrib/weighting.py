"""A small network that is learned beside the model: scores of candidates in, their logits out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Weighting(nn.Module):
    """Logits of candidates from their scores, standardized over the candidates.

        logit_i = v . tanh(W s_i + b),   s = (scores - mean) / (std + 1e-6)

    At first v is 0 and all logits are equal, so that an untrained weighting prefers nobody.

    Args:
        n_scores: scores of each candidate.
        hidden: units of the hidden layer.
        lr: step size of its Adam.
        seed: of W and b.

    >>> Weighting(3, hidden=8, lr=0.01, seed=0)(torch.rand(5, 3)).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0]
    """

    def __init__(self, n_scores: int, *, hidden: int, lr: float, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(n_scores, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False)
            )
        nn.init.zeros_(self.layers[2].weight)  # pyright: ignore[reportArgumentType] # of a Sequential
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr)

    def forward(self, scores: Tensor) -> Tensor:
        """Return the logits `(..., n)` of n candidates with scores `(..., n, k)`."""
        scores = scores.detach().cpu().float()
        centered = scores - scores.mean(-2, keepdim=True)
        return self.layers(centered / (centered.square().mean(-2, keepdim=True).sqrt() + 1e-6)).squeeze(-1)

    def get_extra_state(self) -> dict[int, Any]:
        """Return what the optimizer remembers of each weight, which `state_dict` contains so."""
        return self.optimizer.state_dict()["state"]

    def set_extra_state(self, state: dict[int, Any]) -> None:
        """Let the optimizer remember what `get_extra_state` returned."""
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def descend(self, loss: Tensor) -> None:
        """Take a step down the gradient of a loss, unless that diverged."""
        self.optimizer.zero_grad()
        if loss.isfinite():
            loss.backward()
            self.optimizer.step()


def drawn(logits: Tensor, k: int, rng: np.random.Generator) -> Tensor:
    """Return k candidates, drawn in turn with the probabilities `softmax(logits)` of those that are left.

    Args:
        logits: `(..., n)`.
        k: how many.
        rng: random numbers.

    Returns:
        Their places in the order in which they were drawn, `(..., k)`.
    """
    # The k largest of logits plus Gumbel noise are drawn so.
    return (logits + torch.from_numpy(rng.gumbel(size=logits.shape)).to(logits)).topk(k).indices
