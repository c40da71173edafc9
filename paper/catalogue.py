"""All studies by name; a study's module is imported when the study is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from metalens.errors import MetaLensError

if TYPE_CHECKING:
    from paper.study import Study

# Name of the study -> its class, and what it asks.
STUDIES: dict[str, tuple[str, str]] = {
    "trlearner-controls": (
        "controls.ControlStudy",
        "TRLearner against every control: all-ones, shuffled, frozen, same compute, baselines",
    ),
    "trlearner-lambda": ("weight.WeightStudy", "Score against the strength λ of TRLearner's term"),
    "trlearner-heads": ("heads.HeadStudy", "Score against the number of heads of TRLearner's relations"),
    "trlearner-batch": ("batch.BatchStudy", "Score against the number of tasks in a batch"),
    "trlearner-relations": (
        "relations.RelationStudy",
        "Relation matrices before training, as fixed cosine, and learned",
    ),
    "trlearner-test-time": (
        "related_models.RelatedModelsStudy",
        "Test tasks predicted with the models of related training tasks",
    ),
    "trlearner-sampler": ("sampler.SamplerStudy", "Score by sampler of tasks, with and without TRLearner"),
    "trlearner-tradeoff": ("tradeoff.TradeoffStudy", "Score against training time, for all regularizers"),
    "lens-complexity": (
        "complexity.ComplexityStudy",
        "Training and test curves of simple and complex tasks, with and without TRLearner",
    ),
    "theory-excess-risk": (
        "excess_risk.ExcessRiskStudy",
        "Theorems 2 and 3: accurate relations against all-ones and shuffled ones",
    ),
    "theory-shared-features": (
        "shared_features.SharedFeatureStudy",
        "Theorem 1: what the features of another task are worth, by its similarity",
    ),
}


def get_study(name: str) -> Study:
    """Return a study with its default settings.

    Raises:
        MetaLensError: there is no study of this name.

    >>> get_study("trlearner-lambda").seeds
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    if name not in STUDIES:
        raise MetaLensError(f"There is no study {name!r}; choose from {', '.join(STUDIES)}.")
    place, description = STUDIES[name]
    module, _, cls = place.partition(".")
    return getattr(import_module(f"paper.{module}"), cls)(name=name, description=description)
