"""Intervals, and paired differences between arms over seeds and tasks."""
