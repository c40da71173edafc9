"""Benchmarks: recipes that anyone can run, and the code that runs them."""

from metalens.benchmarks.curves import CURVE_RECIPES
from metalens.benchmarks.images import IMAGE_RECIPES
from metalens.benchmarks.m4 import M4_RECIPES
from metalens.benchmarks.omniglot import OMNIGLOT_RECIPES
from metalens.benchmarks.pose import POSE_RECIPES
from metalens.benchmarks.recipe import Recipe
from metalens.benchmarks.tables import TABLE_RECIPES

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *CURVE_RECIPES,
        *OMNIGLOT_RECIPES,
        *IMAGE_RECIPES,
        *TABLE_RECIPES,
        *M4_RECIPES,
        *POSE_RECIPES,
    )
}

__all__ = ["RECIPES", "Recipe"]
