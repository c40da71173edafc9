"""Settings of both estimators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sklearn.base import BaseEstimator
from sklearn.utils import ClassifierTags, RegressorTags, Tags

from metalens.errors import MetaLensError


@dataclass(eq=False, repr=False, kw_only=True)
class EstimatorSettings(BaseEstimator):
    """Settings of both estimators.

    As in scikit-learn, `fit` checks the settings, and names that end in `_` are results of `fit`.

    Args:
        learner: name, with settings if needed: `"ANIL(inner_lr=0.05)"`; `None` for the default.
        regularizers: any number of them, in the same form.
        sampler: of the tasks of a batch, in the same form.
        hidden: sizes of the hidden layers of the perceptron for tables.
        k_shot: support rows of a training task; `None` to choose by the sizes of tasks.
        n_query: query rows of a training task; `None` as well.
        steps: maximum number of outer steps.
        patience: number of validations, one every 50 steps, without a new best score after which training
            stops.
        meta_batch_size: tasks per step.
        outer_lr: step size of the outer optimizer.
        seeds: number of models, trained from different initializations on disjoint tasks; their predictions
            are averaged.
        baselines: models to compare with, by name or with settings such as `"KNN(n_neighbors=3)"`; `None` for
            the defaults, `()` for none.
        metric: the score that decides; `None` for `r2` of numbers, and of classes for accuracy, or
            `average_precision` where one class has most rows. Others: `rmse`, `mse`, `pearson_r2`; `roc_auc`,
            `balanced_accuracy`, `average_precision`, `brier_score`, `cross_entropy`.
        fallback: use a baseline, or the stacked mean of all models, if it wins on the held-out tasks.
        random_state: the first seed of everything random.
    """

    learner: str | None = field(default=None, kw_only=False)
    regularizers: Sequence[str] = ()
    sampler: str = "Uniform"
    hidden: Sequence[int] = (128, 128)
    k_shot: int | None = None
    n_query: int | None = None
    steps: int = 2000
    patience: int = 10
    meta_batch_size: int = 8
    outer_lr: float = 1e-3
    seeds: int = 1
    baselines: Sequence[str] | None = None
    metric: str | None = None
    fallback: bool = True
    random_state: int = 0

    metrics: ClassVar[tuple[str, ...]]  # that may decide, the usual one first
    kind: ClassVar[Literal["regressor", "classifier"]]  # to scikit-learn

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.estimator_type, tags.target_tags.required = self.kind, True
        if self.kind == "regressor":
            tags.regressor_tags = RegressorTags()
        else:
            tags.classifier_tags = ClassifierTags()
        return tags

    def check_settings(self) -> None:
        """Refuse settings that are out of range.

        Raises:
            MetaLensError: a setting is out of range.
        """
        for name, least in (("seeds", 1), ("k_shot", 1), ("n_query", 1), ("n_way", 2)):
            value = getattr(self, name, None)
            if value is not None and value < least:
                raise MetaLensError(f"{name} must be at least {least}, got {value}.")
        if self.metric not in (None, *self.metrics):
            raise MetaLensError(f"metric must be one of {', '.join(self.metrics)}, got {self.metric!r}.")
