"""Distributions of curves that are drawn from a formula."""
