"""The comparison of a neural process with R2D2 on tables."""

import numpy as np
import pandas as pd

from tools.tables.in_context import page


def scores(lead: float, noise: float) -> pd.DataFrame:
    """Skills of 20 tasks with 2 draws, where TNPD is ahead by a lead in each."""
    rng = np.random.default_rng(0)
    rows = [
        ("exam", 0, name, fit, 3, draw, f"task {task}", skill + noise * rng.normal())
        for name, fit, skill in (("TNPD", 20.0, 0.5 + lead), ("R2D2", 5.0, 0.5))
        for draw in range(2)
        for task in range(20)
    ]
    return pd.DataFrame(rows, columns=["table", "fold", "learner", "fit", "k", "draw", "task", "skill"])


def test_the_page_has_means_a_paired_lead_and_the_times():
    head, _, row = page(scores(0.1, 0.001)).splitlines()
    assert head.startswith("| table | k | tasks | TNPD | R2D2 |")
    assert row.startswith("| exam | 3 | 20 | 0.600 | 0.500 | **+0.1")
    assert row.endswith("| 20 and 5 |")
    assert "**−0.100 [−0.1" in page(scores(-0.1, 0.001))


def test_a_lead_that_may_be_chance_is_not_bold():
    assert "**" not in page(scores(0.0, 0.1))
