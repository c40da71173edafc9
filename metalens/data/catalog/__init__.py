"""Data sets by name: what they are, where they are on this machine, and their tasks."""
