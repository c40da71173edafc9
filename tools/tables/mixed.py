"""Linear mixed models of statsmodels, fitted to the training tasks and the known rows of all new tasks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.linalg import qr
from scipy.sparse import csr_matrix

from tools.tables.design import Design, most_related
from tools.tables.family import Fitted, Predict
from tools.tables.protocol import Fold, targets

COLLINEAR = 1e-3  # of the length of the longest column, below which what a column adds is rounding


def mixed_models(fold: Fold) -> Iterator[Fitted]:
    """Yield a random intercept; for numbers also with a random slope on the most related column."""
    design = Design(fold)
    if fold.problem.kind == "class":
        yield Fitted("mixed logistic, random intercept", _logistic(fold, design))
        return
    yield Fitted("MixedLM, random intercept", _linear(fold, design, None))
    slope = most_related(design.matrix(fold.train)[:, : len(design.numbers)], fold.y, fold.groups)
    yield Fitted("MixedLM, random slope", _linear(fold, design, slope), f"slope on {design.numbers[slope]}")


def independent(matrix: np.ndarray) -> np.ndarray:
    """Return the columns of a matrix that are neither constant nor, nearly, sums of others."""
    _, r, order = qr(matrix - matrix.mean(0), mode="economic", pivoting=True)
    size = np.abs(np.diag(r))
    return np.sort(order[: len(size)][size > COLLINEAR * size.max()])


def _linear(fold: Fold, design: Design, slope: int | None) -> Predict:
    from statsmodels.regression.mixed_linear_model import MixedLM

    def predict(episodes):
        rows = pd.concat([fold.train, *(episode.support for episode in episodes)])
        x = design.matrix(rows)
        keep = independent(x)
        model = MixedLM(
            targets(fold.problem, rows, fold.classes), _with_ones(x[:, keep]),
            groups=rows[fold.problem.task].to_numpy(str), exog_re=_effects(x, slope),
        )  # fmt: skip
        result = model.fit()
        fixed, random = np.asarray(result.fe_params), result.random_effects
        found = []
        for episode in episodes:
            new = design.matrix(episode.query)
            mean = _with_ones(new[:, keep]) @ fixed
            if episode.task in random:
                mean = mean + _effects(new, slope) @ np.asarray(random[episode.task])
            found.append(mean)
        return found

    return predict


def _logistic(fold: Fold, design: Design) -> Predict:
    from statsmodels.genmod.bayes_mixed_glm import BinomialBayesMixedGLM

    def predict(episodes):
        rows = pd.concat([fold.train, *(episode.support for episode in episodes)])
        x = design.matrix(rows)
        keep = independent(x)
        codes, names = pd.factorize(rows[fold.problem.task])
        effects = csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), codes)))
        y = targets(fold.problem, rows, fold.classes)
        model = BinomialBayesMixedGLM(y, _with_ones(x[:, keep]), effects, np.zeros(len(names), int))
        result = model.fit_vb()
        random = dict(zip(names, result.vc_mean, strict=True))
        found = []
        for episode in episodes:
            mean = _with_ones(design.matrix(episode.query)[:, keep]) @ result.fe_mean
            found.append(1 / (1 + np.exp(-mean - random.get(episode.task, 0.0))))
        return found

    return predict


def _effects(matrix: np.ndarray, slope: int | None) -> np.ndarray:
    """Return the columns whose coefficients differ between tasks."""
    return _with_ones(matrix[:, [] if slope is None else [slope]])


def _with_ones(matrix: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(matrix)), matrix])
