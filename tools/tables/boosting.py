"""One boosted model of all tasks, and what the known rows of a task say about its residuals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, Self

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold

from tools.tables.design import Design
from tools.tables.family import Fitted
from tools.tables.protocol import Fold, targets
from tools.tables.residuals import ResidualProcess, level_variances, logit_variance, offset, shrunken_mean

MOST_ROUNDS, PATIENCE, RATE = 2000, 50, 0.05
MOLECULE_ROUNDS, MOLECULE_RATE = 1000, 0.1  # of a thousand bits, which take long
N_PARTS = 5  # of the training tasks: rounds are chosen on one, and residuals are of models without a part


class Booster(Protocol):
    """A boosted model; predictions are numbers, or log odds of the second class."""

    rounds: int  # that were best on other tasks

    def fit(self, x: pd.DataFrame, y: np.ndarray, valid: tuple[pd.DataFrame, np.ndarray] | None) -> Self:
        """Train, stopped early where there are rows to validate on."""
        ...

    def predict(self, x: pd.DataFrame) -> np.ndarray:
        """Return predictions."""
        ...


class LightGBM:
    """LightGBM with its usual trees."""

    def __init__(self, kind: str, *, molecules: bool, rounds: int | None = None) -> None:
        from lightgbm import LGBMClassifier, LGBMRegressor

        make = LGBMRegressor if kind == "number" else LGBMClassifier
        most, rate = (MOLECULE_ROUNDS, MOLECULE_RATE) if molecules else (MOST_ROUNDS, RATE)
        self.model = make(
            n_estimators=rounds or most, learning_rate=rate, subsample=0.8, subsample_freq=1,
            colsample_bytree=0.3 if molecules else 0.8, n_jobs=1, random_state=0, verbosity=-1,
        )  # fmt: skip
        self.rounds = rounds or most

    def fit(self, x: pd.DataFrame, y: np.ndarray, valid: tuple[pd.DataFrame, np.ndarray] | None) -> Self:
        from lightgbm import early_stopping

        if valid is None:
            self.model.fit(x, y)
        else:
            stop = early_stopping(PATIENCE, verbose=False)
            self.model.fit(x, y, eval_X=valid[0], eval_y=valid[1], callbacks=[stop])
            self.rounds = max(self.model.best_iteration_, 1)
        return self

    def predict(self, x: pd.DataFrame) -> np.ndarray:
        return self.model.predict(x, raw_score=True)


class CatBoost:
    """CatBoost with its usual trees, and categories as such."""

    def __init__(self, kind: str, *, molecules: bool, rounds: int | None = None) -> None:
        from catboost import CatBoostClassifier, CatBoostRegressor

        make = CatBoostRegressor if kind == "number" else CatBoostClassifier
        most, rate = (MOLECULE_ROUNDS, MOLECULE_RATE) if molecules else (MOST_ROUNDS, RATE)
        settings = {"border_count": 1, "rsm": 0.2} if molecules else {}
        self.model = make(
            iterations=rounds or most, learning_rate=rate, thread_count=1, random_seed=0, verbose=False,
            allow_writing_files=False, **settings,
        )  # fmt: skip
        self.rounds = rounds or most

    def fit(self, x: pd.DataFrame, y: np.ndarray, valid: tuple[pd.DataFrame, np.ndarray] | None) -> Self:
        words = [name for name in x if isinstance(x[name].dtype, pd.CategoricalDtype)]
        others = {}
        if valid is not None:
            others = {"eval_set": (_texts(valid[0]), valid[1]), "early_stopping_rounds": PATIENCE}
        self.model.fit(_texts(x), y, cat_features=words, **others)
        self.rounds = max(int(self.model.tree_count_), 1)
        return self

    def predict(self, x: pd.DataFrame) -> np.ndarray:
        return self.model.predict(_texts(x), prediction_type="RawFormulaVal", thread_count=1)


def lightgbm(fold: Fold) -> Iterator[Fitted]:
    """Yield LightGBM alone and with corrections of its residuals."""
    return pooled(fold, LightGBM, "LightGBM")


def catboost(fold: Fold) -> Iterator[Fitted]:
    """Yield CatBoost alone and with corrections of its residuals."""
    return pooled(fold, CatBoost, "CatBoost")


def pooled(fold: Fold, make: Callable[..., Booster], label: str) -> Iterator[Fitted]:
    """Yield one boosted model of all tasks, then with a shrunken mean, then with a Gaussian process.

    The number of rounds is that with the least error on a fifth of the training tasks; the corrections learn
    from the residuals of training tasks that took no part in a model.
    """
    design, y = Design(fold), fold.y
    x = design.for_trees(fold.train)
    settings = {"kind": fold.problem.kind, "molecules": design.molecules}
    parts = list(GroupKFold(N_PARTS, shuffle=True, random_state=0).split(x, groups=fold.groups))
    fitted, held_out = parts[0]
    valid = x.iloc[held_out], y[held_out]
    rounds = make(**settings).fit(x.iloc[fitted], y[fitted], valid).rounds
    model = make(**settings, rounds=rounds).fit(x, y, None)
    link = (lambda values: values) if fold.problem.kind == "number" else _chance

    def alone(episodes):
        return [link(model.predict(design.for_trees(episode.query))) for episode in episodes]

    yield Fitted(label, alone, f"{rounds} rounds")
    out_of_part = np.empty(len(y))
    for fitted, held_out in parts:
        without = make(**settings, rounds=rounds).fit(x.iloc[fitted], y[fitted], None)
        out_of_part[held_out] = without.predict(x.iloc[held_out])
    correct = (_level if fold.problem.kind == "number" else _logit)(y, out_of_part, fold.groups)

    def corrected(episodes):
        found = []
        for episode in episodes:
            mean = model.predict(design.for_trees(episode.query))
            if len(episode.support):
                known = model.predict(design.for_trees(episode.support))
                mean = mean + correct(targets(fold.problem, episode.support, fold.classes), known)
            found.append(link(mean))
        return found

    yield Fitted(f"{label} + shrunken mean", corrected)
    if fold.problem.kind == "class":
        return
    process = ResidualProcess.fit(design, design.matrix(fold.train), y - out_of_part, fold.groups)

    def with_process(episodes):
        found = []
        for episode in episodes:
            mean = model.predict(design.for_trees(episode.query))
            if len(episode.support):
                known = model.predict(design.for_trees(episode.support))
                residual = targets(fold.problem, episode.support, fold.classes) - known
                mean = mean + process(design.matrix(episode.support), residual, design.matrix(episode.query))
            found.append(mean)
        return found

    yield Fitted(f"{label} + residual GP", with_process)


def _level(y: np.ndarray, mean: np.ndarray, groups: np.ndarray) -> Callable[..., float]:
    between, within = level_variances(y - mean, groups)
    return lambda known, predicted: shrunken_mean(known - predicted, between, within)


def _logit(y: np.ndarray, logits: np.ndarray, groups: np.ndarray) -> Callable[..., float]:
    variance = logit_variance(y, logits, groups)
    return lambda known, predicted: offset(known, predicted, variance)


def _chance(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _texts(x: pd.DataFrame) -> pd.DataFrame:
    """Return the categories as text, which is what CatBoost takes."""
    return x.astype({name: str for name in x if isinstance(x[name].dtype, pd.CategoricalDtype)})
