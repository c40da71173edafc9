"""What the library aims at, and how far the measurements are from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tools.speed.implementation import OURS
from tools.speed.report import threads_text

LOOPS = ("Plain PyTorch, clone and adapt", "higher", "TorchOpt, MetaSGD", "parallel-metalearn, sequential")

Times = Mapping[str, Sequence[float]]


class Aim(NamedTuple):
    """A ratio or a time that was measured, and the bound that it should keep."""

    title: str
    measured: float
    bound: float
    at_least: bool = True
    unit: str = "×"

    @property
    def met(self) -> bool:
        """Whether the bound is kept."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def row(self) -> str:
        """Return the row of the table."""
        sign = "≥" if self.at_least else "≤"
        cells = [self.title, f"{sign} {self.bound:g} {self.unit}", f"{self.measured:.3g} {self.unit}"]
        return "| " + " | ".join([*cells, "met" if self.met else "**missed**"]) + " |"


def table(steps: Sequence[dict[str, Any]], extras: Mapping[str, Mapping[str, Times]]) -> list[str]:
    """Return the table of all aims that were measured.

    Args:
        steps: what `measure` returned, once for each number of threads.
        extras: by part what `extras` measured.
    """
    aims = [aim for measured in steps for aim in _of_steps(measured)]
    aims += [aim for part, tables in extras.items() if part in _OF_PARTS for aim in _OF_PARTS[part](tables)]
    if not aims:
        return []
    head = ["### Aims", "", "| | aim | measured | |", "|---|--:|--:|---|"]
    return [*head, *(aim.row() for aim in aims), ""]


def _of_steps(measured: Mapping[str, Any]) -> Iterator[Aim]:
    threads = threads_text(measured["threads"])
    for name, (title, bound) in {
        "sinusoid-maml-1": ("Sinusoids, MAML, 1 step", 50),
        "sinusoid-maml-5": ("Sinusoids, MAML, 5 steps", 40),
        "conv4-maml-1": ("Conv4, MAML", 1.5),
        "conv4-anil-1": ("Conv4, ANIL", 2),
        "conv4-protonet": ("Conv4, ProtoNet", 2),
    }.items():
        if name not in measured["workloads"]:
            continue
        run = measured["workloads"][name]
        ours = _fastest(run["times"], OURS)
        title = f"{title}, {threads}"
        yield Aim(f"{title}: the fastest loop of others", _fastest(run["times"], *LOOPS) / ours, bound)
        if run["flops"] is None and any(row.startswith("JAX") for row in run["times"]):
            yield Aim(f"{title}: against JAX", ours / _fastest(run["times"], "JAX"), 1, at_least=False)
        if name == "conv4-maml-1":
            share = run["flops"] / ours / measured["matmul_rate"]
            yield Aim(f"{title}: rate of a matrix product", 100 * share, 70, unit="%")


def _of_trlearner(tables: Mapping[str, Times]) -> Iterator[Aim]:
    for title, times in tables.items():
        rows = {row: float(np.median(of)) for row, of in times.items()}
        plain, literal, *cheaper = rows.values()
        if "MAML on Conv4" in title or "compiled" in title:
            yield Aim(f"{title}, subsampled", min(cheaper) / plain, 1.5, at_least=False)
        else:
            yield Aim(title, literal / plain, 1.3 if "MAML" in title else 1.05, at_least=False)


def _of_evaluation(tables: Mapping[str, Times]) -> Iterator[Aim]:
    for title, times in tables.items():
        one_by_one, together = (float(np.median(of)) for of in times.values())
        yield Aim(f"{title}: one after the other", one_by_one / together, 10)


def _of_replicas(tables: Mapping[str, Times]) -> Iterator[Aim]:
    for title, times in tables.items():
        one, ten = (float(np.median(of)) for of in times.values())
        yield Aim(f"{title}: 10 seeds against 1", ten / one, 3, at_least=False)


def _of_startup(tables: Mapping[str, Times]) -> Iterator[Aim]:
    for times in tables.values():
        seconds = {row: float(np.median(of)) for row, of in times.items()}
        extra = seconds["import metalens"] - seconds["import torch"]
        yield Aim(
            "`import metalens`, which puts `torch` off, minus `import torch`",
            extra,
            0.3,
            at_least=False,
            unit="s",
        )
        yield Aim("`metalens --help`", seconds["metalens --help"], 0.5, at_least=False, unit="s")


_OF_PARTS = {
    "trlearner": _of_trlearner,
    "evaluation": _of_evaluation,
    "replicas": _of_replicas,
    "startup": _of_startup,
}


def _fastest(times: Times, *prefixes: str) -> float:
    return min(float(np.median(of)) for row, of in times.items() if row.startswith(prefixes))
