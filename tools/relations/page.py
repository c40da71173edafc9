"""The table of the page."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from metalens.statistics.intervals import by_seed_and_task, estimate, holm
from tools.relations.cell import ARMS

_PAIRS = [("learned", "none"), ("learned", "equal"), ("regression", "tuned"), ("bound", "tuned")]


def table(rows: pd.DataFrame, shots: Mapping[str, int]) -> str:
    """Return mean skills of all arms and paired differences, as Markdown.

    Intervals are those of `metalens.statistics`; a difference is bold if p is below 0.05 after Holm's
    correction for all differences of the table.

    Args:
        rows: `table, seed, task, arm, skill`.
        shots: support rows by table.
    """
    found = []
    for name, of_table in rows.groupby("table", sort=False):
        named = of_table.rename(columns={"task": "source"})
        wide = named.pivot_table(index=["seed", "source"], columns="arm", values="skill")
        for better, reference in _PAIRS:
            change = (wide[better] - wide[reference]).rename("value").reset_index()
            found.append((name, better, reference, *estimate(by_seed_and_task(change))))
    columns = ["table", "arm", "reference", "mean", "low", "high", "p"]
    differences = pd.DataFrame(found, columns=columns)
    differences["p"] = holm(differences["p"])
    titles = [f"{arm} − {reference}" for arm, reference in _PAIRS]
    lines = [f"| table | new tasks | rows known | {' | '.join(ARMS)} | {' | '.join(titles)} |"]
    lines.append(f"|---|--:|--:|{'--:|' * len(ARMS)}{'---|' * len(titles)}")
    for name, of_table in rows.groupby("table", sort=False):
        skills = of_table.groupby("arm")["skill"].mean()
        cells = [name, of_table["task"].nunique(), shots[str(name)], *(f"{skills[arm]:.3f}" for arm in ARMS)]
        for row in differences[differences["table"] == name].itertuples():
            text = f"{row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
            cells.append(f"**{text}**" if row.p < 0.05 else text)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines).replace("-0.", "−0.")
