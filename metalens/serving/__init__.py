"""A small page and a JSON end point for a trained model, on this machine."""

MAX_BYTES, MAX_ROWS = 2_000_000, 10_000  # of a table
