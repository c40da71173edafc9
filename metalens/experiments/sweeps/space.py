"""The search space of a sweep: settings by name, each with the values to try."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from metalens.errors import MetaLensError
from metalens.experiments.arms import Cell, arms_of, runs_of
from metalens.experiments.recipe import FIXED, Recipe
from metalens.io.yaml import read_yaml
from metalens.specs.calls import Call, checked_settings, parse_calls
from metalens.specs.settings import changed, typed_settings
from metalens.statistics.arms import ARM

# These decide which scores are compared, and how trials are computed.
NOT_SWEPT = (*FIXED, *ARM, "seeds", "n_val_tasks", "validate_every", "n_test_tasks", "machine")


@dataclass(frozen=True)
class Space:
    """Settings with the values to try.

    Attributes:
        source: its file, for messages.
        content: of the file.
        distributions: by the names of settings: those of the recipe, such as `outer_lr`, and those of a
            method of its arm, such as `MAML.inner_lr`.
    """

    source: str
    content: dict[str, Any]
    distributions: dict[str, BaseDistribution]

    def check(self, recipe: Recipe) -> None:
        """Assemble the arm with the ends of every range and with every choice, without training.

        Raises:
            MetaLensError: an arm cannot be assembled, or a value changes the validation tasks.
        """
        held_out = None
        for setting, values in self._corners():
            try:
                chosen = with_values(recipe, values)
                (arm,) = arms_of(chosen)
                (run,) = runs_of(chosen, [Cell(arm, chosen.seeds[0])])
                run.objective.check_meta_batch_size(chosen.meta_batch_size, 1)
                run.sampler.check(run.objective, run.tasks, chosen.meta_batch_size)
            except (ValueError, TypeError) as error:
                where = f"{setting}={values[setting]}" if setting else "the first values"
                raise MetaLensError(f"{self.source}: with {where}: {error}") from error
            assert run.validation is not None
            tasks = [(tensor.shape, tensor.numpy().tobytes()) for tensor in run.validation.tasks[0].tensors]
            held_out = tasks if held_out is None else held_out
            if tasks != held_out:
                raise MetaLensError(
                    f"{self.source}: {setting} changes the validation tasks, on which trials are compared; "
                    "make a sweep for each of its values."
                )

    def _corners(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the first values of all settings, then variations in one setting."""
        ends = {name: _ends(distribution) for name, distribution in self.distributions.items()}
        first = {name: values[0] for name, values in ends.items()}
        yield "", first
        for name, (_, *others) in ends.items():
            for value in others:
                yield name, {**first, name: value}


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return a recipe of one arm with other values of settings, named as in a space.

    Raises:
        MetaLensError: the recipe refuses a value.

    >>> from metalens.experiments import RECIPES
    >>> changed = with_values(RECIPES["omniglot-5w1s"], {"meta_batch_size": 3, "MAML.inner_lr": 0.5})
    >>> changed.meta_batch_size, changed.learner
    (3, ['MAML(inner_lr=0.5)'])
    """
    own = {name: value for name, value in values.items() if "." not in name}
    texts = [name for name, value in own.items() if isinstance(value, str) and _is_list(recipe, name)]
    own |= {name: json.loads(own[name]) for name in texts}
    arm = {field: [_with_settings(getattr(recipe, field)[0], values)] for field in ARM}
    return replace(changed(recipe, own), **arm)


def read_space(path: Path, recipe: Recipe) -> Space:
    """Read the settings of a recipe to try, with their values.

    Args:
        path: YAML, for example

            outer_lr: {low: 1e-4, high: 1e-1, log: true}
            meta_batch_size: [4, 8, 16]
            MAML.inner_lr: {low: 0.001, high: 0.1, log: true}

        recipe: with a single learner, choice of regularizers and sampler.

    Raises:
        MetaLensError: the file is malformed, or has an unknown setting or an invalid range or choice.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not content:
        raise MetaLensError(
            f"{path} must hold settings with their values, one a line, such as 'meta_batch_size: [4, 8]' or "
            "'outer_lr: {low: 1e-4, high: 1e-1, log: true}'."
        )
    content = {str(name): values for name, values in content.items()}
    distributions = {name: _distribution(path, recipe, name, values) for name, values in content.items()}
    return Space(str(path), content, distributions)


def _distribution(path: Path, recipe: Recipe, name: str, values: Any) -> BaseDistribution:
    """Return the distribution of a setting."""
    try:
        if isinstance(values, list):
            choices = [_typed(recipe, name, value) for value in values]
            # Optuna takes plain values: lists become text, which is parsed when it is applied.
            choices = [json.dumps(value) if isinstance(value, list) else value for value in choices]
            if len(set(map(repr, choices))) < len(choices):
                raise MetaLensError(f"each choice must be named once, got {values}.")
            return CategoricalDistribution(choices)
        if not isinstance(values, dict) or not {"low", "high"} <= values.keys() <= {"low", "high", "log"}:
            form = "{low: ..., high: ..., log: true}"
            raise MetaLensError(f"write a range {form} or a list of choices, got {values}.")
        low, high = (_typed(recipe, name, values[end]) for end in ("low", "high"))
        log = values.get("log", False)
        if not isinstance(log, bool):
            raise MetaLensError(f"log must be true or false, got {log}.")
        if any(isinstance(end, bool) or not isinstance(end, int | float) for end in (low, high)):
            raise MetaLensError("a range needs numbers; list the choices.")
        if not all(map(math.isfinite, (low, high))):
            raise MetaLensError(f"low and high must be finite, got {low} and {high}.")
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log)
        return FloatDistribution(low, high, log)
    except ValueError as error:
        raise MetaLensError(f"{path}: {name}: {' '.join(str(error).split())}") from None


def _typed(recipe: Recipe, name: str, value: Any) -> Any:
    """Return a value converted to the type of its setting, which must be one that can be swept."""
    method, _, setting = name.rpartition(".")
    if method:
        calls = [call.name for field in ARM for call in parse_calls(getattr(recipe, field)[0])]
        if method not in calls:
            raise MetaLensError(f"the sweep is of {' and '.join(calls)}, and {method} is not among them.")
        return checked_settings(method, {setting: value})[setting]
    known = [field.name for field in fields(recipe) if field.name not in NOT_SWEPT]
    if name not in known:
        raise MetaLensError(
            f"{recipe.name} has no such setting to be swept; choose from {', '.join(known)}, or a setting "
            "of a method, such as MAML.inner_lr."
        )
    return typed_settings(type(recipe), {name: value})[name]


def _is_list(recipe: Recipe, name: str) -> bool:
    return isinstance(getattr(recipe, name, None), list)


def _ends(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return [distribution.low, distribution.high]


def setting_text(value: Any) -> str:
    """Return the value of a setting as text.

    >>> setting_text(0.0123456), setting_text(8), setting_text(None)
    ('0.01235', '8', 'none')
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else str(value)


def _with_settings(text: str, values: Mapping[str, Any]) -> str:
    """Return calls with the settings of their names: of MAML, those such as `MAML.inner_lr`."""
    calls = []
    for call in parse_calls(text):
        own = {n.rpartition(".")[2]: v for n, v in values.items() if n.rpartition(".")[0] == call.name}
        calls.append(str(Call(call.name, call.settings | own)))
    return " + ".join(calls) or "none"
