"""A small sweep, of quick trials."""

from dataclasses import replace
from pathlib import Path

from metalens.experiments import RECIPES
from metalens.experiments.sweeps.space import read_space
from metalens.experiments.sweeps.sweep import Sweep

RATES = "{outer_lr: {low: 1e-3, high: 1e-1, log: true}, MAML.inner_lr: {low: 0.01, high: 0.1}}"
QUICK = {
    "regularizers": ["none"], "seeds": [0], "steps": 4, "validate_every": 2, "meta_batch_size": 4,
    "hidden": [4], "n_val_tasks": 5, "n_test_tasks": 5,
}  # fmt: skip
RECIPE = replace(RECIPES["demo"], **QUICK)


def small_sweep(
    folder: Path, space=RATES, n_trials=3, *, pruner="none", lost_after=60.0, **settings
) -> Sweep:
    """Return a sweep of a space of the folder, with settings of the recipe."""
    recipe = replace(RECIPE, **settings)
    path = folder / "space.yaml"
    path.write_text(space)
    return Sweep(recipe, read_space(path, recipe), n_trials, pruner, lost_after)
