"""The tables, and where they go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.speed import differentiation, profile
from tools.speed.equality import STEPS, TOLERANCES
from tools.speed.implementation import OURS
from tools.speed.workloads import WORKLOADS

FIGURE = "images/speed.svg"  # in paper/


def replace_tables(page: Path, tables: str, name: str = "bench") -> None:
    """Put the tables between the two markers of a page with this name, whatever was there."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    page.write_text(f"{before}{begin}\n\n{tables}\n{end}{after}", encoding="utf-8")


def origin(facts: dict[str, str], date: str, command: str) -> list[str]:
    """Return the paragraph that says where the numbers come from."""
    return [
        f"Measured on {date} by `{command}` at commit {facts['commit']}, on {facts['processor']} with "
        f"{facts['cores']} cores. {facts['versions']}.",
        "",
    ]


def step_tables(measured: Sequence[dict[str, Any]], memory: dict[str, dict[str, float]]) -> list[str]:
    """Return the comparison of outer steps.

    Args:
        measured: what `measure` returned, once for each number of threads.
        memory: peak memory in MiB by workload and implementation, where it was measured.
    """
    rates = ", ".join(f"{m['matmul_rate']:.0f} GF/s with {threads_text(m['threads'])}" for m in measured)
    lines = [
        "Times are milliseconds of a whole outer step with Adam, data ready in memory, in a process that "
        "keeps freed memory as `fit` does: the median over rounds and, in parentheses, the quartiles. "
        "`×` is the median relative to the fastest of MetaLens. "
        "Each number of threads has its own process, which is bound to as many cores; so XLA, too, has no "
        "more. With 1 thread it is the time of the processor, to which other work adds nothing. "
        "Memory is what steps need at their peak above what the process holds between them (weights, "
        "gradient, Adam's state, tasks), with 1 thread. "
        "Before timing, all implementations made the same steps: compared with double precision, the first "
        f"loss differs by less than {TOLERANCES['loss']:.0e}, the first meta-gradient by "
        f"{TOLERANCES['gradient']:.0e} and the weights after {STEPS} steps by {TOLERANCES['weights']:.0e}, "
        f"all relative. The best rate of a large `torch.mm`, the scale of the column `of mm`, is {rates}.",
        "",
    ]
    for name in measured[0]["workloads"]:
        lines += [f"### {WORKLOADS[name].title}", "", *_table(name, measured, memory.get(name, {})), ""]
    return lines


def extra_tables(extras: dict[str, Any], threads: dict[str, int]) -> list[str]:
    """Return a table for each part other than the steps, and the figure where curves were measured.

    Args:
        extras: by part what `extras` measured.
        threads: by part with how many threads.
    """
    lines = []
    for part, measured in extras.items():
        if part == "scaling":
            lines += [
                "### Growth",
                "",
                f"![Time of an outer step against the size of the problem]({FIGURE})",
                "",
            ]
            continue
        if part == "differentiation":
            lines += differentiation.table(measured, threads_text(threads[part]))
            continue
        if part == "profile":
            lines += [profile.EXPLANATION, ""]
            for title, arms in measured.items():
                lines += profile.table(title, arms, threads_text(threads[part]))
            continue
        for title, times in measured.items():
            first = float(np.median(next(iter(times.values()))))
            lines += [f"### {title}", "", f"| | ms, {threads_text(threads[part])} | × |", "|---|--:|--:|"]
            for name, of in times.items():
                lines.append(f"| {name} | {_spread(of)} | {_ratio(float(np.median(of)) / first)} |")
            lines.append("")
    return lines


def _table(name: str, measured: Sequence[dict[str, Any]], memory: dict[str, float]) -> list[str]:
    runs = [(m, m["workloads"][name]) for m in measured]
    header = ["implementation"]
    columns = []
    for m, run in runs:
        medians = {title: float(np.median(times)) for title, times in run["times"].items()}
        best = min(median for title, median in medians.items() if title.startswith(OURS))
        header += [f"ms, {threads_text(m['threads'])}", "×"]
        columns += [
            {title: _spread(times) for title, times in run["times"].items()},
            {title: _ratio(median / best) for title, median in medians.items()},
        ]
        if run["flops"] is not None:
            header.append("of `mm`")
            rate = {title: run["flops"] / median / m["matmul_rate"] for title, median in medians.items()}
            columns.append({title: f"{share:.0%}" for title, share in rate.items()})
    if memory:
        header.append("peak MiB")
        columns.append({title: f"{peak:.1f}" for title, peak in memory.items()})
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * len(columns) + "|"]
    for title in runs[0][1]["times"]:
        lines.append("| " + " | ".join([title, *(column.get(title, "") for column in columns)]) + " |")
    reasons = [f"{title}: {reason}" for title, reason in runs[0][1]["refusals"].items()]
    return [*lines, "", "Not in this table: " + "; ".join(reasons) + "."] if reasons else lines


def _spread(times: Sequence[float]) -> str:
    low, median, high = (1e3 * float(q) for q in np.quantile(times, [0.25, 0.5, 0.75]))
    digits = 2 if median < 10 else 1 if median < 100 else 0
    return f"{median:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"  # noqa: RUF001


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def threads_text(n: int) -> str:
    """Return a number of threads in words."""
    return "1 thread" if n == 1 else f"{n} threads"
