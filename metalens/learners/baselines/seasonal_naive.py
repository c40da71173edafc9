"""The forecast that every method for time series must beat: the values one season earlier."""

import numpy as np

from metalens.data.checks import check_sizes
from metalens.errors import MetaLensError
from metalens.learners.baselines.base import Baseline


class SeasonalNaive(Baseline):
    """The seasonal naive forecast: value h ahead is the latest seen value of the same place in the season.

    `y_h = x_{n - m + (h mod m)}` for a window `x_0 ... x_{n-1}`, h = 0, 1, ..., and m values a season. With
    m = 1 the last value is repeated. It needs no support set. Inputs must be windows of the series alone, and
    targets the values that follow, on the same scale, as in `SeriesTasks`.

    Args:
        n_outputs: the horizon, how many values are predicted.
        season: m, at most the length of a window; 24 for hours of a day.

    Raises:
        MetaLensError: the season is below 1 or, in prediction, longer than a window.

    >>> import torch
    >>> from metalens import Examples, SeasonalNaive
    >>> x = torch.tensor([[5.0, 1.0, 2.0, 3.0]])
    >>> SeasonalNaive(n_outputs=4, season=3)(Examples(x, x))(x)
    tensor([[1., 2., 3., 1.]])

    Source: none; the benchmark "sNaive" of the M4 competition.
    """

    def __init__(self, n_outputs: int, *, season: int = 1) -> None:
        super().__init__(n_outputs)
        check_sizes(season=season)
        self.season = season

    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        if classes:
            raise MetaLensError("SeasonalNaive forecasts numbers, got classes; use a baseline such as KNN.")
        length = new_x.shape[1]
        if self.season > length:
            raise MetaLensError(f"SeasonalNaive needs windows of {self.season} values or more, got {length}.")
        return new_x[:, length - self.season + np.arange(y.shape[1]) % self.season]
