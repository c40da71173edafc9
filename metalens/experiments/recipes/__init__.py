"""Recipes: experiments with a name."""
