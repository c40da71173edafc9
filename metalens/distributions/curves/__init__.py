"""Curves: tasks from a formula, without end."""
