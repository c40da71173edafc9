"""A perceptron for forecasts that starts as the seasonal naive forecast."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from metalens.errors import MetaLensError
from metalens.networks.base import Network
from metalens.networks.mlp import mlp


class _BesideLastSeason(nn.Module):
    """Features of a window, followed by the values one season before each value to predict."""

    places: Tensor

    def __init__(self, features: nn.Module, length: int, horizon: int, season: int) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("places", length - season + torch.arange(horizon) % season, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.features(x), x[:, self.places]], dim=1)


def forecast_mlp(
    length: int,
    horizon: int,
    *,
    season: int = 1,
    hidden: Sequence[int] = (128, 128),
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> Network:
    """Build a perceptron whose head also sees the last season, and which starts as the naive forecast.

    `f(x)_h = w_h . g(x) + v_h . s(x) + b_h`, with g the hidden layers of a perceptron and `s(x)_h =
    x_{n - m + (h mod m)}` the seasonal naive forecast of a window of n values. At the start v is the
    identity, w and b are 0: a method learns corrections to a forecast that is hard to beat.

    Args:
        length: n, values of a window.
        horizon: number of values to predict.
        season: m, the period of the naive forecast; 1 repeats the last value.
        hidden: sizes of the hidden layers.
        activation: makes the non-linearity.

    Returns:
        A `Network` with `(n, length) -> (n, horizon)`.

    Raises:
        MetaLensError: a size is below 1, there is no hidden layer, or the season is longer than a window.

    >>> forecast_mlp(4, 4, season=3)(torch.tensor([[5.0, 1.0, 2.0, 3.0]]))
    tensor([[1., 2., 3., 1.]], grad_fn=<AddmmBackward0>)

    Source: none; forecasts as corrections of simple ones are common in forecasting.
    """
    if not 1 <= season <= length:
        raise MetaLensError(
            f"forecast_mlp needs a season of 1 to {length} values, the length of a window, got {season}."
        )
    plain = mlp(length, horizon, hidden, activation=activation)
    backbone = nn.Sequential(_BesideLastSeason(plain.backbone, length, horizon, season))
    n_features = plain.n_features + horizon
    head = nn.Linear(n_features, horizon)
    with torch.no_grad():
        nn.init.zeros_(head.bias)
        head.weight.copy_(torch.eye(horizon, n_features).roll(plain.n_features, dims=1))
    return Network(backbone, head, n_features=n_features, n_outputs=horizon)
