"""Estimators in the style of scikit-learn, for your own data."""

import os
from pathlib import Path

from metalens.errors import MetaLensError
from metalens.estimators.adapted_classifier import AdaptedClassifier
from metalens.estimators.choice import FallbackWarning
from metalens.estimators.classifier import MetaClassifier
from metalens.estimators.regressor import AdaptedRegressor, MetaRegressor
from metalens.estimators.saving import read_facts

__all__ = [
    "AdaptedClassifier",
    "AdaptedRegressor",
    "FallbackWarning",
    "MetaClassifier",
    "MetaRegressor",
    "load_model",
]


def load_model(folder: str | os.PathLike[str]) -> MetaRegressor | MetaClassifier:
    """Return the estimator that a folder holds, on the CPU.

    Raises:
        MetaLensError: the folder is missing, damaged, or of something else.

    >>> load_model("missing")
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: missing is no saved model, as it has no model.json; give ...
    """
    kinds = {kind.__name__: kind for kind in (MetaRegressor, MetaClassifier)}
    name = str(read_facts(Path(folder))["kind"])
    if name in (AdaptedRegressor.__name__, AdaptedClassifier.__name__):
        raise MetaLensError(f"{folder} holds a {name}; load it by {name}.load.")
    if name not in kinds:
        raise MetaLensError(f"{folder} holds a {name}, which is not among {', '.join(kinds)}.")
    return kinds[name].load(folder)
