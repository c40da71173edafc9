"""Suites: many recipes and studies by one command, each table or figure of the paper as a file."""

from metalens.experiments.suites.suite import SUITES, Entry, Suite, description_of, read_suite

__all__ = ["SUITES", "Entry", "Suite", "description_of", "read_suite"]
