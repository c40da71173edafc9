"""Recipes, which anyone can run, and the code that runs them."""

from metalens.experiments.recipe import Recipe
from metalens.experiments.recipes.curves import CURVE_RECIPES
from metalens.experiments.recipes.images import IMAGE_RECIPES
from metalens.experiments.recipes.m4 import M4_RECIPES
from metalens.experiments.recipes.omniglot import OMNIGLOT_RECIPES
from metalens.experiments.recipes.pose import POSE_RECIPES
from metalens.experiments.recipes.tables import TABLE_RECIPES

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipes in (CURVE_RECIPES, OMNIGLOT_RECIPES, IMAGE_RECIPES, TABLE_RECIPES, M4_RECIPES, POSE_RECIPES)
    for recipe in recipes
}

__all__ = ["RECIPES", "Recipe"]
