"""Recipes, which anyone can run, and the code that runs them."""

from dataclasses import replace

from metalens.experiments.recipe import Recipe
from metalens.experiments.recipes.curves import CURVE_RECIPES
from metalens.experiments.recipes.images import IMAGE_RECIPES
from metalens.experiments.recipes.m4 import M4_RECIPES
from metalens.experiments.recipes.omniglot import OMNIGLOT_RECIPES
from metalens.experiments.recipes.pose import POSE_RECIPES
from metalens.experiments.recipes.tables import TABLE_RECIPES
from metalens.specs.outside import Catalogue

_OWN = (CURVE_RECIPES, OMNIGLOT_RECIPES, IMAGE_RECIPES, TABLE_RECIPES, M4_RECIPES, POSE_RECIPES)

RECIPES: Catalogue[Recipe] = Catalogue(
    "recipe", Recipe, {recipe.name: recipe for recipes in _OWN for recipe in recipes}, of_classes=False
)


def find_recipe(name: str) -> Recipe:
    """Return the recipe of a name; one from outside has this name.

    Raises:
        MetaLensError: there is no such recipe.

    >>> find_recipe("demo").steps == RECIPES["demo"].steps
    True
    """
    return replace(RECIPES.find(name), name=name)


__all__ = ["RECIPES", "Recipe", "find_recipe"]
