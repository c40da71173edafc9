"""Predictions for the query rows of held-out tasks, and scores of all rows together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from metalens.estimators.choice import Draw

Rows = Callable[[Draw, Tensor], tuple[np.ndarray, np.ndarray]]  # true values and predictions, each (n,)


def predictions_of(draws: Sequence[Draw], model: str, rows: Rows) -> pd.DataFrame:
    """Return rows `task, true, predicted` of the predictions of a model.

    Args:
        draws: of held-out tasks.
        model: its name.
        rows: returns what is compared of predictions, such as targets in their own units.
    """
    parts = [(draw.task, *rows(draw, draw.predictions[model])) for draw in draws]
    frames = [pd.DataFrame({"task": name, "true": true, "predicted": found}) for name, true, found in parts]
    return pd.concat(frames, ignore_index=True)


def pooled_scores(draws: Sequence[Draw], rows: Rows) -> pd.DataFrame:
    """Return the scores of all rows of all tasks together: rows `model, metric, value`, of `r2` and `rmse`.

    `R^2 = 1 - sum_i (y_i - p_i)^2 / sum_i (y_i - mean y)^2` over all rows, with the mean of all tasks: it
    counts also that a model tells tasks apart, and tasks by their number of rows. Both are nan if a
    prediction is not finite, and `r2` if all targets are equal.

    >>> import torch
    >>> y = torch.tensor([[1.0], [3.0]])
    >>> draws = [Draw("a", y, y, {"Ridge": y + 1}, y), Draw("b", y, y, {"Ridge": y + 8}, y + 9)]
    >>> scores = pooled_scores(draws, lambda draw, found: (draw.targets[:, 0].numpy(), found[:, 0].numpy()))
    >>> scores.round(3).values.tolist()
    [['Ridge', 'r2', 0.953], ['Ridge', 'rmse', 1.0]]
    """
    from sklearn.metrics import r2_score, root_mean_squared_error  # slow to import

    found = []
    for model in draws[0].predictions:
        table = predictions_of(draws, model, rows)
        true, predicted = table["true"], table["predicted"]
        is_finite, varies = np.isfinite(predicted).all(), true.nunique() > 1
        share = r2_score(true, predicted) if is_finite and varies else np.nan
        error = root_mean_squared_error(true, predicted) if is_finite else np.nan
        found += [(model, "r2", float(share)), (model, "rmse", float(error))]
    return pd.DataFrame(found, columns=["model", "metric", "value"])
