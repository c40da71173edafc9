"""Baselines: classical models of single tasks, and models of all tasks as one."""
