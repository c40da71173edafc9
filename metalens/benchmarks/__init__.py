"""Benchmarks: recipes that anyone can run, and the code that runs them."""

from metalens.benchmarks.curves import CURVE_RECIPES
from metalens.benchmarks.images import IMAGE_RECIPES
from metalens.benchmarks.kiba import KIBA_RECIPES
from metalens.benchmarks.omniglot import OMNIGLOT_RECIPES
from metalens.benchmarks.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (*CURVE_RECIPES, *OMNIGLOT_RECIPES, *IMAGE_RECIPES, *KIBA_RECIPES)
}

__all__ = ["RECIPES", "Recipe"]
