"""What adapts to new tasks: stacked weights against a general solver, folds without leaks, the choice."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize

from metalens.estimators.choice import (
    STACKED,
    Choice,
    Draw,
    FallbackWarning,
    choose,
    choose_model,
    folds,
    nested_scores,
    stack_weights,
    stacked,
    warn_of_baseline,
    with_stacked,
)


def draws(n=12, sizes=(3, 6), models=3, seed=0, noise=(0.5, 0.8, 2.0)):
    """Tasks whose models make independent errors of their own size."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(n):
        y = torch.from_numpy(rng.normal(5 * number, 1 + number, (rng.integers(*sizes), 1)))
        errors = torch.from_numpy((1 + number) * rng.normal(size=(models, len(y), 1)))
        predictions = {f"m{m}": y + noise[m] * errors[m] for m in range(models)}
        found.append(Draw(f"t{number}", y, y, predictions, y))
    return found


def of_error(draw, predictions):
    return {"r2": -float((predictions - draw.targets).square().mean())}


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_those_of_a_general_solver(seed):
    found = draws(seed=seed)
    spread = np.array([float(draw.targets.var(correction=0)) for draw in found])
    spread = np.maximum(spread, np.median(spread) / 4)

    def loss(weights):
        means = [
            stacked(draw.predictions, dict(zip(draw.predictions, weights, strict=True))) for draw in found
        ]
        errors = [
            float((mean - draw.targets).square().mean()) for mean, draw in zip(means, found, strict=True)
        ]
        return np.sum(errors / spread)

    whole = {"type": "eq", "fun": lambda weights: sum(weights) - 1}
    best = minimize(loss, [1 / 3] * 3, bounds=[(0, 1)] * 3, constraints=whole, tol=1e-12)
    weights = stack_weights(found)
    assert sum(weights.values()) == pytest.approx(1)
    np.testing.assert_allclose([weights.get(f"m{m}", 0) for m in range(3)], best.x, atol=1e-4)


def test_a_model_with_a_prediction_that_is_not_finite_has_no_weight():
    found = draws()
    found[3].predictions["m0"][1] = math.nan
    assert set(stack_weights(found)) <= {"m1", "m2"}


def test_a_constant_task_does_not_divide_by_zero():
    one = torch.ones(2, 1, dtype=torch.float64)
    assert stack_weights([Draw("a", one, one, {"m": one, "n": 2 * one}, one)]) == {
        "m": pytest.approx(1, abs=1e-6)
    }


def test_a_task_has_no_say_in_the_weights_by_which_it_is_predicted():
    found = draws()
    fold = folds(draw.task for draw in found)
    before = with_stacked(found)
    changed = list(found)
    mine = found[4]
    changed[4] = mine._replace(targets=mine.targets + 100, y=mine.y + 100)
    after = with_stacked(changed)
    same = [
        torch.equal(a.predictions[STACKED], b.predictions[STACKED])
        for a, b in zip(before, after, strict=True)
    ]
    assert same == [fold[draw.task] == fold[mine.task] for draw in found]


@pytest.mark.parametrize("found", [draws(7), draws(models=1)])
def test_few_tasks_or_one_model_are_not_stacked(found):
    assert with_stacked(found) == found


def table(**values):
    return pd.concat(
        [pd.DataFrame({"model": m, "task": list("abcd"), "value": v}) for m, v in values.items()]
    )


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"meta": [0.5] * 4, "base": [0.4] * 4}, "meta"),
        ({"meta": [0.5] * 4, "base": [0.6] * 4}, "base"),
        ({"meta": [0.5] * 4, "base": [0.9, 0.9, 0.3, 0.1]}, "meta"),  # 0.05 better, with an error of 0.2
        ({"meta": [0.5] * 4, "base": [0.6] * 4, STACKED: [0.7] * 4}, STACKED),
        ({"meta": [0.5] * 4, "base": [0.6] * 4, STACKED: [0.55] * 4}, "base"),
        ({"meta": [0.5] * 4, STACKED: [0.4] * 4}, "meta"),
        ({"meta": [0.5] * 4, "base": [math.nan, 2, 2, 2]}, "meta"),
        ({"meta": [math.nan, 2, 2, 2], "base": [0.1] * 4}, "base"),
    ],
)
def test_a_baseline_displaces_the_learner_only_beyond_noise(scores, expected):
    assert choose_model(table(**scores)) == expected
    assert choose_model(table(**scores), fallback=False) == "meta"


def test_the_nested_score_of_a_task_is_chosen_without_it():
    scores = table(meta=[0.0, 0.0, 0.0, 0.9], base=[0.1, 0.1, 0.1, 0.0])
    assert choose_model(scores) == "meta"  # by the last task
    nested = nested_scores(scores, fallback=True)
    assert nested["d"] == 0.0  # the others prefer the baseline
    assert set(nested.index) == set("abcd")


def test_the_comparison_is_of_test_tasks_and_the_choice_of_all():
    found = draws(20)
    comparison, choice, _ = choose({"val": found[:10], "test": found[10:]}, of_error, "r2", fallback=True)
    assert comparison.task.unique().tolist() == [draw.task for draw in found[10:]]
    assert choice.model == STACKED
    assert choice.n_tasks == 20
    assert choice.weights == stack_weights(found)
    assert [len(of_task) for of_task in choice.residuals] == [len(draw.y) for draw in found]
    expected = with_stacked([d._replace(task=f"val/{d.task}") for d in found[:10]]
                            + [d._replace(task=f"test/{d.task}") for d in found[10:]])  # fmt: skip
    residual = (expected[3].targets - expected[3].predictions[STACKED]).abs()
    np.testing.assert_array_equal(choice.residuals[3], residual.numpy().ravel())
    assert choice.score < 0
    assert choice == Choice.restore(choice.facts(), choice.tensors())._replace(residuals=choice.residuals)


def warned(model, fallback, **means):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_baseline(Choice(model, "r2", {model: 1.0}, means, 0.0, 9, []), fallback=fallback)
    return [str(one.message) for one in caught if one.category is FallbackWarning]


def test_a_warning_says_when_a_baseline_adapts_or_would():
    (text,) = warned("base", True, meta=0.5, base=0.6)
    assert text.endswith(
        "(mean r2 0.5 against 0.6), so base adapts; set fallback=False to use meta all the same."
    )
    (text,) = warned("meta", False, meta=0.5, base=0.6)
    assert text.endswith("; set fallback=True to use base.")
    assert warned("meta", True, meta=0.5, base=0.6) == []  # not beyond noise
    assert warned(STACKED, True, meta=0.5, base=0.6, Stacked=0.7) == []
    assert warned("meta", True, meta=0.5, base=math.nan) == []


def test_the_lowest_loss_is_chosen():
    found = draws(20, noise=(0.9, 0.3, 2.0))
    score = lambda draw, predictions: {"mse": -of_error(draw, predictions)["r2"]}  # noqa: E731
    parts = {"val": found[:10], "test": found[10:]}
    _, choice, _ = choose({k: [d._replace(predictions={n: d.predictions[n] for n in ("m0", "m1")}) for d in v]
                        for k, v in parts.items()}, score, "mse", fallback=True)  # fmt: skip
    assert choice.model in ("m1", STACKED)
    assert choice.weights["m1"] > 0.7
    assert choice.means["m1"] < choice.means["m0"]
    assert choice.score > 0
