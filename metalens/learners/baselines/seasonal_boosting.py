"""Gradient boosting of what a seasonal naive forecast misses."""

import numpy as np

from metalens.data.checks import check_sizes
from metalens.errors import MetaLensError, check_counts, check_positive
from metalens.learners.baselines.boosted_trees import BoostedTrees
from metalens.learners.baselines.fitted import FittedBaseline, TrainingRows

_MOST_SEASONS = 8  # that are looked back
_NEIGHBORS = (-2, -1, 1, 2)


class SeasonalBoosting(FittedBaseline):
    """Gradient-boosted trees on lags: corrections of the seasonal naive forecast, one model for all steps.

    `y_h = b_h + f(lags of x at h)` for a window `x_0 ... x_{n-1}`, h = 0, 1, ..., with the forecast
    `b_h = x_{n - m + (h mod m)}` of `SeasonalNaive`. The trees f have the least absolute error on windows of
    the training series. They see, all relative to b_h: the same place in up to 8 seasons, its neighbors, the
    latest values, means of seasons, and the value a whole window before the target; beside them b_h, how much
    values differ, and h. The number of rounds is chosen on held-out series. The support of a new series is
    ignored; forecasts start from its window.

    Inputs must be windows of the series alone, and targets the values that follow, on the same scale, as in
    `SeriesTasks`; there `scale="window"` makes series of all sizes comparable.

    Args:
        n_outputs: the horizon, how many values are predicted.
        season: m, at most the length of a window; 24 for hours of a day.
        learning_rate: of each tree.
        max_rounds: most trees.
        max_leaf_nodes: of a tree.
        n_tasks: number of training tasks to draw.
        n_rows: most targets to learn from, drawn at random from those of all windows.

    Raises:
        MetaLensError: a setting is out of range or, in training and prediction, the season is longer than a
            window.

    >>> from metalens import Objective, SeasonalBoosting, SeriesTasks, fit
    >>> waves = np.sin(np.arange(100) / 2 + np.arange(20)[:, None]) * np.arange(1, 21)[:, None]
    >>> tasks = SeriesTasks(waves, "train", length=12, horizon=3, k_shot=5, n_query=4)
    >>> boosting = SeasonalBoosting(n_outputs=3, n_tasks=50, max_rounds=10)
    >>> _ = fit(Objective(boosting), tasks, steps=1, meta_batch_size=1)
    >>> boosting(tasks[0].support)(tasks[0].query.x).shape
    torch.Size([4, 3])

    Source: none; gradient boosting on lags with absolute error, LightGBM's, won the M5 competition
    (S. Makridakis, E. Spiliotis, V. Assimakopoulos, International Journal of Forecasting 38, 2022).
    """

    def __init__(
        self,
        n_outputs: int,
        *,
        season: int = 1,
        learning_rate: float = 0.08,
        max_rounds: int = 400,
        max_leaf_nodes: int = 31,
        n_tasks: int = 2000,
        n_rows: int = 100_000,
    ) -> None:
        super().__init__(n_outputs, n_tasks=n_tasks)
        check_positive(self, learning_rate=learning_rate)
        check_counts(self, max_rounds=max_rounds, n_rows=n_rows)
        check_sizes(season=season)
        check_sizes(2, max_leaf_nodes=max_leaf_nodes)
        self.season, self.n_rows = season, n_rows
        self.trees = BoostedTrees(
            loss="absolute_error",
            learning_rate=learning_rate,
            max_rounds=max_rounds,
            max_leaf_nodes=max_leaf_nodes,
        )

    def fit_rows(self, rows: TrainingRows) -> None:
        n_windows, horizon = rows.y.shape
        rng, n = np.random.default_rng(0), n_windows * horizon
        windows, steps = np.divmod(rng.choice(n, min(n, self.n_rows), replace=False), horizon)
        lags, naive = self._lags(rows.x[windows].astype(float), steps)
        misses = rows.y[windows, steps] - naive
        left = misses - self.trees.fit(TrainingRows(lags, misses[:, None], rows.tasks[windows]))[:, 0]
        self.noise = self.noise.new_full((horizon,), (left**2).mean())

    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        horizon = y.shape[1]
        steps = np.tile(np.arange(horizon), len(new_x))
        lags, naive = self._lags(new_x.astype(float).repeat(horizon, axis=0), steps)
        return (naive + self.trees.predict(lags)[:, 0]).reshape(-1, horizon)

    def _lags(self, x: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs of the trees `(n, d)`, and naive forecasts `(n,)`, of windows at one step each."""
        (n, length), m, phase = x.shape, self.season, steps % self.season
        if m > length:
            raise MetaLensError(f"SeasonalBoosting needs windows of {m} values or more, got {length}.")
        n_seasons, every = min(length // m, _MOST_SEASONS), np.arange(n)

        def at(places: np.ndarray) -> np.ndarray:
            return x[every, places.clip(0, length - 1)]

        now = length - m + phase
        naive = at(now)
        seasons = x[:, length - n_seasons * m :].reshape(n, n_seasons, m)
        means, changes = seasons.mean(2)[:, ::-1], np.abs(np.diff(seasons, axis=1)).mean(2)[:, ::-1]
        one_window_before = at(steps % length)
        relative = [
            *(at(now - m * back) for back in range(1, n_seasons)),
            *(at(now + offset) for offset in _NEIGHBORS),
            *(x[:, -1 - back] for back in range(min(2, length))),
            *(x[:, -1 - back] for back in (m, m + 1) if back < length),
            means[:, 0],
            seasons.mean((1, 2)),
            np.median(seasons[every, :, phase], axis=1),
            one_window_before,
        ]
        absolute = [
            naive,
            *(mean - means[:, 0] for mean in means.T[1:]),
            one_window_before - at(steps % length - m),
            x[:, -(m // 2 + 1) :].mean(1) - x[:, -(m // 2 + 1) - m :][:, : m // 2 + 1].mean(1),
            *((changes[:, 0], changes.mean(1)) if n_seasons > 1 else ()),
            x.std(1),
            steps,
            steps // m,
        ]
        return np.column_stack([*(values - naive for values in relative), *absolute]), naive
