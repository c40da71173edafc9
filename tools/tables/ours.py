"""MetaLens as a user calls it: trained once with its defaults, adapted to every new task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from functools import partial

import numpy as np
import pandas as pd

from metalens import MetaClassifier, MetaRegressor
from metalens.errors import MetaLensError
from tools.tables.family import Fitted, NotApplicableError
from tools.tables.protocol import COVERAGE, Episode, Fold

DEFAULT = "MetaLens"


def metalens(fold: Fold) -> Iterator[Fitted]:
    """Yield the default, and then each of the models that it was chosen from."""
    problem = fold.problem
    model = MetaRegressor() if problem.kind == "number" else MetaClassifier()
    model.fit(fold.train, **problem.columns())
    limits = partial(of_intervals, model) if isinstance(model, MetaRegressor) else None
    yield Fitted(DEFAULT, lambda episodes: [predict(model, e) for e in episodes], chosen(model), limits)
    singles = [name for name in model.comparison_["model"].unique() if name != "Stacked"]
    for name in singles:
        yield Fitted(f"{DEFAULT}: {name}", partial(of_single, alone(model, name)))


def predict(model: MetaRegressor | MetaClassifier, episode: Episode) -> np.ndarray:
    """Return predicted numbers, or the chances of the second class."""
    adapted = model.adapt(known_rows(episode))
    if isinstance(model, MetaRegressor):
        return adapted.predict(episode.query)
    return adapted.predict_proba(episode.query)[:, 1]


def known_rows(episode: Episode) -> pd.DataFrame | None:
    """Return the support as the estimators take it: `None` before there are any rows."""
    return episode.support if len(episode.support) else None


def of_intervals(model: MetaRegressor, episodes: Sequence[Episode]) -> list[np.ndarray]:
    """Return the limits of intervals; nothing where none was calibrated for so few known rows."""
    try:
        return [
            model.adapt(known_rows(episode)).predict_interval(episode.query, coverage=COVERAGE)
            for episode in episodes
        ]
    except MetaLensError:
        return []


def of_single(model: MetaRegressor | MetaClassifier, episodes: Sequence[Episode]) -> list[np.ndarray]:
    """Return the predictions of one of the models; some have none without known rows."""
    try:
        return [predict(model, episode) for episode in episodes]
    except MetaLensError as error:
        if any(len(episode.support) for episode in episodes):
            raise
        raise NotApplicableError(str(error)) from error


def chosen(model: MetaRegressor | MetaClassifier) -> str:
    """Return what adapts, by the number of support rows, with its weights."""
    found = []
    for k_shot, weights in model.weights_.items():
        ordered = sorted(weights.items(), key=lambda item: -item[1])
        found.append(f"{k_shot}: " + " + ".join(f"{weight:.2f} {name}" for name, weight in ordered))
    return "; ".join(found)


def alone(model: MetaRegressor | MetaClassifier, name: str) -> MetaRegressor | MetaClassifier:
    """Return the estimator with one of its models, which adapts to any number of rows.

    The estimators have no public way to ask for one of their models.
    """
    twin = copy(model)
    some = next(iter(model._choices.values()))
    twin._choices = {0: some._replace(model=name, weights={name: 1.0})}
    return twin
