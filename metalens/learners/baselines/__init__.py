"""Baselines: classical models of single tasks, and models trained on all tasks together."""
