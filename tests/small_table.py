"""A small table for tests, and tasks of it."""

import numpy as np
import pandas as pd

from metalens import TableTasks

NAMES = [f"assay{number}" for number in range(10)]
ROWS = 12


def small_table():
    """Ten tasks of twelve rows; `row` numbers all rows, and input and target are functions of it."""
    row = np.random.default_rng(0).permutation(len(NAMES) * ROWS)
    frame = pd.DataFrame({"assay": np.array(NAMES)[row // ROWS], "row": row})
    frame["split"] = np.select([row // ROWS < 6, row // ROWS < 8], ["train", "val"], "test")
    return frame.assign(half=row / 2.0, dose=np.sqrt(row), activity=np.sin(row) + row // ROWS)


def tasks_of(table, split="train", **changes):
    settings = {"task": "assay", "target": "activity", "inputs": table[["row"]].to_numpy()}
    settings |= {"splits": "split", "k_shot": 4, "n_query": 3, "standardize": "none"}
    return TableTasks(table, split, **(settings | changes))


def rows_of(examples):
    return examples.x[..., 0].long().numpy()
