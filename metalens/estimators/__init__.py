"""Estimators in the manner of scikit-learn, for people's own data."""

from metalens.estimators.regressor import AdaptedRegressor, MetaRegressor

__all__ = ["AdaptedRegressor", "MetaRegressor"]
