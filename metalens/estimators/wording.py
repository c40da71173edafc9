"""Weights and half widths of what was chosen, by the number of support rows, as words and numbers."""

import math
from collections.abc import Callable, Mapping

from metalens.errors import MetaLensError
from metalens.estimators.choice import Choice
from metalens.estimators.scaling import COVERAGE
from metalens.metrics import METRICS
from metalens.statistics.numbers import number

MIN_TASKS = 20  # held-out tasks, below which the order of models is a guess
_LEAST_WEIGHT = 0.005  # that is shown


def weights_in_words(weights: Mapping[str, float], named: Callable[[str], str] = str) -> str:
    """Return the models, by their names or what is made of these, and their weights, the heaviest first.

    >>> weights_in_words({"Ridge": 0.25, "R2D2": 0.75})
    'R2D2 75%, Ridge 25%'
    """
    ordered = sorted(weights.items(), key=lambda one: -one[1])
    return ", ".join(f"{named(name)} {weight:.0%}" for name, weight in ordered if weight >= _LEAST_WEIGHT)


def by_support_rows(choices: Mapping[int, Choice]) -> list[tuple[int, str, str, str]]:
    """Return what to expect of every number of support rows, as text.

    Returns:
        Rows of the number, the models with their weights, the mean score and the half width of intervals that
        hold 90 % of the targets, which is empty for classes.
    """
    return [
        (k_shot, weights_in_words(one.weights), shown(one.score, one.metric), half_width(one, "± "))
        for k_shot, one in sorted(choices.items())
    ]


def shown(value: float, metric: str) -> str:
    """Return a score as text; a fraction in percent."""
    return f"{value:.1%}" if METRICS[metric].unit == "fraction" else number(value, 3)


def half_width(choice: Choice, sign: str = "") -> str:
    """Return the mean half width of intervals of 90 % as text; nothing for classes."""
    if not choice.residuals:
        return ""
    width = known_half_width(choice)
    return "n/a" if math.isnan(width) else f"{sign}{width:.3g}"


def known_half_width(choice: Choice) -> float:
    """Return the mean half width of intervals of 90 %; nan for classes and where there were too few tasks."""
    try:
        return choice.half_width(COVERAGE) if choice.residuals else math.nan
    except MetaLensError:
        return math.nan
