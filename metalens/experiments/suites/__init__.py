"""Suites: many recipes by one command, with one table of all scores."""

from metalens.experiments.suites.suite import SUITES, Entry, Suite, description_of, read_suite

__all__ = ["SUITES", "Entry", "Suite", "description_of", "read_suite"]
