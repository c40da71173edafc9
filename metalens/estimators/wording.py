"""What was chosen for new tasks, and for how many support rows, in words and numbers."""

import math
from collections.abc import Callable, Mapping

import pandas as pd

from metalens.errors import MetaLensError
from metalens.estimators.choice import STACKED, Choice, best_single
from metalens.estimators.scaling import COVERAGE
from metalens.metrics import METRICS
from metalens.reports.numbers import number
from metalens.reports.sentences import difference_in_words
from metalens.reports.tables import results_of_models
from metalens.statistics.comparisons import paired_differences

MIN_TASKS = 20  # held-out tasks, below which the order of models is a guess
_LEAST_WEIGHT = 0.005  # that is shown


def choice_in_words(choice: Choice, comparison: pd.DataFrame, n_folds: int = 0) -> list[str]:
    """Return sentences on what adapts to new tasks and why.

    Args:
        choice: for the usual number of support rows.
        comparison: rows `model, task, metric, value` on the test tasks, the meta-learner first.
        n_folds: in which each task was held out once; 0 without folds.

    >>> means = {"ANIL": 0.4, "MeanPredictor": -0.1, "Ridge": 0.5}
    >>> choice = Choice("Ridge", "r2", {"Ridge": 1.0}, means, 0.45, 40, [])
    >>> rows = [(name, task, "r2", mean + task / 9) for task in range(3) for name, mean in means.items()]
    >>> comparison = pd.DataFrame(rows, columns=["model", "task", "metric", "value"])
    >>> choice_in_words(choice, comparison)[0]
    'Ridge adapts to new tasks, a baseline: on 40 held-out tasks the meta-learner ANIL does not beat it
    (mean r2 0.400 against 0.500).'
    """
    metric = choice.metric
    means = {name: shown(mean, metric) for name, mean in choice.means.items()}
    tasks = f"{choice.n_tasks} held-out task{'' if choice.n_tasks == 1 else 's'}"
    meta, model = next(iter(means)), choice.model
    folds = []
    if n_folds:
        folds = [f"Each task was held out once, in {n_folds} folds; what adapts was trained on all "
                 f"{comparison['task'].nunique()} tasks."]  # fmt: skip
    best = best_single(choice._replace(means={n: mean for n, mean in choice.means.items() if n != meta}))
    if len(means) == 1:
        return [f"{meta} adapts to new tasks: on {tasks} its mean {metric} is {means[meta]}.", *folds]
    against = f"{means[best]} of {best}, the best baseline"
    if model == STACKED:
        first = f"A weighted mean of models adapts to new tasks: {weights_in_words(choice.weights)}."
        first += f" On {tasks}, each without a say in the weights, its mean {metric} is {means[model]}, "
        first += f"against {means[meta]} of {meta}, the meta-learner, and {against}."
    elif model != meta:
        first = f"{model} adapts to new tasks, a baseline: on {tasks} the meta-learner {meta} does not beat "
        first += f"it (mean {metric} {means[meta]} against {means[model]})."
    else:
        first = (
            f"{meta} adapts to new tasks: on {tasks} its mean {metric} is {means[meta]}, against {against}."
        )
    nested = f"Chosen anew without each task in turn, what adapts to it has the mean {metric} "
    nested += f"{shown(choice.score, metric)}: what to expect of further tasks."
    few = []
    if choice.n_tasks < MIN_TASKS:
        few = [f"With only {tasks}, another division may give another order."]
    other = best if model == meta else model
    paired = paired_differences(results_of_models(comparison))
    of_other = paired[(paired["learner"] == other) & (paired["metric"] == metric)]
    differences = [difference_in_words(row, metric) for _, row in of_other.iterrows()]
    return [first, nested, *folds, *differences, *few]


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
