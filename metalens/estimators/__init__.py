"""Estimators in the manner of scikit-learn, for people's own data."""

from metalens.estimators.classifier import AdaptedClassifier, MetaClassifier
from metalens.estimators.loading import load_model
from metalens.estimators.models import FallbackWarning
from metalens.estimators.regressor import AdaptedRegressor, MetaRegressor

__all__ = [
    "AdaptedClassifier",
    "AdaptedRegressor",
    "FallbackWarning",
    "MetaClassifier",
    "MetaRegressor",
    "load_model",
]
