"""Estimators in the style of scikit-learn, for your own data."""

from metalens.estimators.classifier import AdaptedClassifier, MetaClassifier
from metalens.estimators.comparison import FallbackWarning
from metalens.estimators.loading import load_model
from metalens.estimators.regressor import AdaptedRegressor, MetaRegressor

__all__ = [
    "AdaptedClassifier",
    "AdaptedRegressor",
    "FallbackWarning",
    "MetaClassifier",
    "MetaRegressor",
    "load_model",
]
