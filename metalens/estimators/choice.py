"""Choice of what adapts to new tasks: the meta-learner, a baseline, or the stacked mean of all."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from scipy.optimize import nnls
from torch import Tensor

from metalens.data.splits import hashed_order
from metalens.errors import MetaLensError
from metalens.estimators.conformal import conformal_radius
from metalens.estimators.scaling import Scale, choose_scale, divided
from metalens.io.json import is_of
from metalens.metrics import METRICS
from metalens.statistics.intervals import mean_of_groups

STACKED = "Stacked"
_N_FOLDS = 5  # of tasks; a stacked prediction for a task has weights that the task did not decide
_MIN_TASKS = 8  # held out, below which weights are a guess
_SUM = 1e3  # weight of the equation that the weights add up to 1
_LEAST_SPREAD = 0.25  # of the median: a task that hardly varies does not decide alone


class FallbackWarning(UserWarning):
    """A baseline beats the meta-learner on the held-out tasks."""


class Draw(NamedTuple):
    """Support and query of a held-out task, and what models that adapted to the support predict.

    Attributes:
        task: its name.
        y: targets of the queries `(q, 1)`, in the units of the models, or class indices `(q,)`.
        known: those of the support, in their own units, or class indices.
        predictions: by model `(q, c)`: targets in their own units, or probabilities of classes.
        targets: what predictions should be `(q, c)`: targets in their own units, or 0 and 1 for classes.
        deviations: predicted standard deviations of numbers `(q,)`, in their own units, by model that has
            them.
    """

    task: str
    y: Tensor
    known: Tensor
    predictions: dict[str, Tensor]
    targets: Tensor
    deviations: Mapping[str, Tensor] = {}

    def of(self, names: Sequence[str]) -> Self:
        """Return the draw with the predictions of some models alone."""
        kept = {name: deviation for name, deviation in self.deviations.items() if name in names}
        return self._replace(predictions={name: self.predictions[name] for name in names}, deviations=kept)


class Choice(NamedTuple):
    """What adapts to new tasks with some number of support rows.

    Attributes:
        model: its name.
        metric: the score that decides.
        weights: of the models in the mean that it predicts, by name.
        means: of this score over the held-out tasks, by model, the meta-learner first.
        score: the same of what was chosen, and its weights fitted, without the task that it predicts.
        n_tasks: number of held-out tasks.
        residuals: absolute errors of the predictions of numbers for each of these tasks, divided by the
            deviations of `scale`.
        scale: what makes intervals wider or narrower from point to point.
    """

    model: str
    metric: str
    weights: dict[str, float]
    means: dict[str, float]
    score: float
    n_tasks: int
    residuals: list[np.ndarray]
    scale: Scale = Scale()

    def half_width(self, coverage: float) -> float:
        """Return the mean half width of intervals for new tasks; see `conformal_radius` for the errors."""
        return self.scale.typical * conformal_radius(self.residuals, coverage)

    def of_one(self, model: str) -> Self:
        """Return the choice of a single model, whose residuals are not known."""
        return self._replace(model=model, weights={model: 1.0}, residuals=[], scale=Scale())

    def facts(self) -> dict[str, Any]:
        """Return what JSON holds."""
        facts = {name: value for name, value in self._asdict().items() if name != "residuals"}
        return facts | {"scale": self.scale._asdict()}

    def tensors(self) -> dict[str, Tensor]:
        """Return the residuals as tensors."""
        sizes = torch.tensor([len(of_task) for of_task in self.residuals], dtype=torch.int64)
        return {"values": torch.from_numpy(np.concatenate([*self.residuals, np.empty(0)])), "sizes": sizes}

    @classmethod
    def restore(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Return the choice with these facts and tensors."""
        layout = {
            "model": str, "metric": str, "weights": dict, "means": dict, "score": float, "n_tasks": int,
            "scale": {"model": (str, NoneType), "typical": float},
        }  # fmt: skip
        values = [] if not is_of(facts, layout) else [*facts["weights"].values(), *facts["means"].values()]
        if not facts.get("weights") or not is_of(values, [float]):
            raise ValueError("its choices are not as expected")
        parts = tensors["values"].split(tensors["sizes"].tolist())
        found: dict[str, Any] = {name: facts[name] for name in layout if name != "scale"}
        residuals, scale = [part.numpy() for part in parts], Scale(**facts["scale"])
        return cls(**found, residuals=residuals, scale=scale)


Score = Callable[[Draw, Tensor], Mapping[str, float]]  # of predictions, by metric, the deciding one first


def stack_weights(draws: Sequence[Draw]) -> dict[str, float]:
    """Return the weights of all models in the mean of their predictions that is best on these tasks.

    `min_w sum_t ||Y_t - sum_m w_m P_tm||^2 / (n_t v_t)`, with `w >= 0` and `sum_m w_m = 1`: tasks count
    alike, whatever their number of queries n and their spread v, the mean variance of the targets, of at
    least a quarter of the median task's. A model with a prediction that is not finite has the weight 0.

    >>> one, two = torch.ones(3, 1), torch.full((3, 1), 2.0)
    >>> draw = Draw("a", two, two, {"low": one, "high": 3 * one}, torch.tensor([[1.0], [2.0], [3.0]]))
    >>> {name: round(weight, 3) for name, weight in stack_weights([draw]).items()}
    {'low': 0.5, 'high': 0.5}

    Source: D. Wolpert, "Stacked generalization", Neural Networks 5, 1992; L. Breiman, "Stacked regressions",
    Machine Learning 24, 1996. Deviation: the held-out units are tasks, and the weights add up to 1.
    """
    names = [
        name
        for name in draws[0].predictions
        if all(draw.predictions[name].isfinite().all() for draw in draws)
    ]
    spread = np.array([float(draw.targets.var(0, correction=0).mean()) for draw in draws])
    spread = np.maximum(spread, _LEAST_SPREAD * np.median(spread))
    spread[spread == 0] = 1.0
    rows, targets = [], []
    for draw, variance in zip(draws, spread, strict=True):
        scale = (len(draw.targets) * variance) ** -0.5
        center = draw.targets.mean(0)
        columns = [(draw.predictions[name] - center).flatten().numpy() for name in names]
        rows.append(scale * np.stack(columns, axis=1))
        targets.append(scale * (draw.targets - center).flatten().numpy())
    equations = np.concatenate([*rows, np.full((1, len(names)), _SUM)])
    weights, _ = nnls(equations, np.append(np.concatenate(targets), _SUM))
    return {
        name: float(weight) for name, weight in zip(names, weights / weights.sum(), strict=True) if weight
    }


def stacked(predictions: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the weighted mean of the predictions of several models."""
    return torch.stack([weight * predictions[name] for name, weight in weights.items()]).sum(0)


def with_stacked(draws: Sequence[Draw]) -> list[Draw]:
    """Return draws with stacked predictions, by weights that the other tasks decided.

    Fewer than 8 tasks, or a single model, are returned as they are.
    """
    fold = folds(draw.task for draw in draws)
    if len(fold) < _MIN_TASKS or len(draws[0].predictions) == 1:
        return list(draws)
    weights = [stack_weights([draw for draw in draws if fold[draw.task] != n]) for n in range(_N_FOLDS)]
    return [
        draw._replace(
            predictions=draw.predictions | {STACKED: stacked(draw.predictions, weights[fold[draw.task]])}
        )
        for draw in draws
    ]


def scores_of(draws: Iterable[Draw], score: Score) -> pd.DataFrame:
    """Return rows `model, task, metric, value`, the mean over the draws of a task."""
    rows = [
        (model, draw.task, metric, value)
        for draw in draws
        for model, predictions in draw.predictions.items()
        for metric, value in score(draw, predictions).items()
    ]
    frame = pd.DataFrame(rows, columns=["model", "task", "metric", "value"])
    of_task = frame.groupby(["model", "task", "metric"], sort=False)["value"]
    return mean_of_groups(of_task).reset_index()


def choose(
    draws: Mapping[str, Sequence[Draw]], score: Score, metric: str, *, fallback: bool
) -> tuple[pd.DataFrame, Choice, list[Draw]]:
    """Return the scores on the test tasks, what adapts to new tasks, by all tasks, and draws of test tasks.

    These have the predictions of the stacked mean, too.

    Args:
        draws: of the held-out tasks by split, `val` and `test`; the meta-learner's predictions are the first.
        score: of predictions.
        metric: the score that decides.
        fallback: whether another model than the meta-learner may be chosen.
    """
    named = {
        split: [d._replace(task=f"{split}/{d.task}") for d in of_split] for split, of_split in draws.items()
    }
    alone = [draw for of_split in named.values() for draw in of_split]
    every = with_stacked(alone)
    scores = scores_of(every, score)
    deciding = scores[scores["metric"] == metric]
    if deciding.empty:
        raise MetaLensError(
            f"No held-out task has queries of two classes for {metric}; use metric='accuracy'."
        )
    gains = deciding.assign(value=METRICS[metric].sign * deciding["value"])
    model = choose_model(gains, fallback=fallback)
    of_model = deciding.groupby("model", sort=False)["value"]
    means = {str(name): float(values.mean(skipna=False)) for name, values in of_model}
    weights = stack_weights(alone) if model == STACKED else {model: 1.0}
    nested = METRICS[metric].sign * nested_scores(gains, fallback=fallback)
    facts = model, metric, weights, means, float(nested.mean(skipna=False)), len(nested)
    on_test = scores[scores["task"].str.startswith("test/")]
    comparison = on_test.assign(task=on_test["task"].str.removeprefix("test/")).reset_index(drop=True)
    tested = [d._replace(task=d.task.removeprefix("test/")) for d in every if d.task.startswith("test/")]
    return comparison, Choice(*facts, *_residuals(every, model)), tested


def nested_scores(scores: pd.DataFrame, *, fallback: bool) -> pd.Series:
    """Return the score of every task with the model that is chosen by the tasks of other folds."""
    fold = scores["task"].map(folds(scores["task"]))
    parts = []
    for number in fold.unique():
        others = scores[fold != number]
        model = choose_model(others if len(others) else scores, fallback=fallback)
        parts.append(scores[(fold == number) & (scores["model"] == model)].set_index("task")["value"])
    return pd.concat(parts)


def folds(tasks: Iterable[str]) -> dict[str, int]:
    """Return the fold of every task, one of five.

    >>> folds(["a", "b"])
    {'b': 0, 'a': 1}
    """
    return {name: place % _N_FOLDS for place, name in enumerate(hashed_order(set(tasks)))}


def _residuals(draws: Sequence[Draw], model: str) -> tuple[list[np.ndarray], Scale]:
    """Return the absolute errors for every task, and what they were divided by; none of classes."""
    if not draws[0].y.is_floating_point():
        return [], Scale()
    errors = _by_task(draws, lambda draw: (draw.targets - draw.predictions[model]).abs())
    names = set.intersection(*(set(draw.deviations) for draw in draws))
    deviations = {name: _by_task(draws, lambda draw, name=name: draw.deviations[name]) for name in names}
    scale = choose_scale(errors, deviations, folds(errors))
    if scale.model is None:
        return list(errors.values()), scale
    return divided(errors, deviations[scale.model]), scale


def _by_task(draws: Sequence[Draw], values: Callable[[Draw], Tensor]) -> dict[str, np.ndarray]:
    """Return values of the queries of all draws of a task, by task."""
    parts: dict[str, list[np.ndarray]] = {}
    for draw in draws:
        parts.setdefault(draw.task, []).append(values(draw).flatten().numpy())
    return {task: np.concatenate(of_task) for task, of_task in parts.items()}


def choose_model(scores: pd.DataFrame, *, fallback: bool = True) -> str:
    """Return the name of the model for new tasks.

    It is the one with the best mean, if that is the meta-learner or the stack. A baseline displaces the
    meta-learner only if it is better by more than a standard error of the paired difference over tasks.

    Args:
        scores: rows `model, task, value`, of which higher is better, the meta-learner first.
        fallback: whether another model than the meta-learner may be chosen.

    >>> rows = pd.DataFrame({"model": ["ANIL", "Ridge"] * 2, "task": list("aabb")})
    >>> [choose_model(rows.assign(value=[0.5, 0.6, 0.5, last])) for last in (0.2, 0.7)]
    ['ANIL', 'Ridge']
    """
    meta = str(scores["model"].iloc[0])
    table = scores.pivot_table(index="task", columns="model", values="value", sort=False, dropna=False)
    means = table.mean(skipna=False).fillna(-np.inf)
    singles = means.drop(STACKED, errors="ignore")
    best = str(singles.idxmax())
    if not fallback or means.max() == means[meta]:
        return meta
    if STACKED in means and means[STACKED] > means[best]:
        return STACKED
    gains = table[best] - table[meta]
    error = gains.std() / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    return meta if means[best] - means[meta] <= error else best


def best_single(choice: Choice) -> str:
    """Return the name of the single model with the best mean; that of the meta-learner if none is finite."""
    singles = {name: mean for name, mean in choice.means.items() if name != STACKED and mean == mean}
    return max(
        singles, key=lambda n: METRICS[choice.metric].sign * singles[n], default=next(iter(choice.means))
    )


def warn_of_baseline(choice: Choice, *, fallback: bool) -> None:
    """Warn if a baseline adapts, or would if a fallback were allowed."""
    meta, best = next(iter(choice.means)), best_single(choice)
    if choice.model == STACKED or best == meta or (choice.model == meta and fallback):
        return
    found = (
        f"On {choice.n_tasks} held-out tasks {meta} does not beat {best} (mean {choice.metric} "
        f"{choice.means[meta]:.4g} against {choice.means[best]:.4g})"
    )
    used = f", so {best} adapts; set fallback=False to use {meta} all the same."
    used = used if fallback else f"; set fallback=True to use {best}."
    warnings.warn(found + used, FallbackWarning, stacklevel=5)
