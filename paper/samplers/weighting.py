"""A small network, trained along with the model, from scores of candidates to their logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Weighting(nn.Module):
    """Logits of candidates from their scores, standardized over the candidates.

        logit_i = v . tanh(W s_i + b),   s = (scores - mean) / (std + 1e-6)

    v starts at 0: all logits are equal, so that an untrained weighting has no preference.

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
        """Return the optimizer's state of each weight, which becomes a part of `state_dict`."""
        return self.optimizer.state_dict()["state"]

    def set_extra_state(self, state: dict[int, Any]) -> None:
        """Restore the optimizer's state that `get_extra_state` returned."""
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def descend(self, loss: Tensor) -> None:
        """Take a gradient step on a loss, unless it is not finite."""
        self.optimizer.zero_grad()
        if loss.isfinite():
            loss.backward()
            self.optimizer.step()


def drawn(logits: Tensor, k: int, rng: np.random.Generator) -> Tensor:
    """Draw k candidates without replacement, each with probabilities `softmax(logits)` of those that remain.

    Args:
        logits: `(..., n)`.
        k: number of candidates to draw.
        rng: source of random numbers.

    Returns:
        Their indices in the order of drawing, `(..., k)`.
    """
    # The k largest of logits plus Gumbel noise have this distribution.
    return (logits + torch.from_numpy(rng.gumbel(size=logits.shape)).to(logits)).topk(k).indices
