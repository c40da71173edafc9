"""How an outer step of MAML grows with tasks, inner steps, units and pixels: curves and their figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from metalens.execution.malloc import keep_freed_memory
from metalens.reports.figures import STYLE
from tools.speed.implementation import load
from tools.speed.timing import interleaved
from tools.speed.workloads import WORKLOADS, Workload

Curves = dict[str, list[tuple[int, float]]]

SINUSOID = WORKLOADS["sinusoid-maml-1"]
IMAGES = replace(WORKLOADS["conv4-maml-1"], n_tasks=4)
# By the label of the axis: the workload, what of it varies, and the values.
PANELS: dict[str, tuple[Workload, str, tuple[int, ...]]] = {
    "tasks (perceptron 1-40-40-1)": (SINUSOID, "n_tasks", (1, 4, 16, 64, 256)),
    "inner steps (perceptron)": (SINUSOID, "inner_steps", (1, 2, 5, 10)),
    "units per layer (perceptron)": (SINUSOID, "width", (20, 40, 80, 160, 320, 640)),
    "height and width of images (Conv4, 4 tasks)": (IMAGES, "image_size", (28, 42, 56, 84)),
}
# Colors of Okabe and Ito, and a marker and line for each.
STYLES = {
    "MetaLens, loop": ("#0072B2", "o", "-"),
    "MetaLens, vmap": ("#D55E00", "s", "-"),
    "Plain PyTorch, clone and adapt": ("#222222", "^", "--"),
}


def measure(rounds: int, seconds: float) -> dict[str, Curves]:
    """Return the curves of every panel: medians in seconds, with the memory settings of `fit` for everybody.

    Curves show how time grows, so fewer and shorter rounds do than in the tables.
    """
    keep_freed_memory()
    rounds, seconds = min(rounds, 7), min(seconds, 0.3)
    return {label: curves(*panel, rounds, seconds) for label, panel in PANELS.items()}


def curves(workload: Workload, field: str, values: tuple[int, ...], rounds: int, seconds: float) -> Curves:
    """Return the median seconds of a step by implementation, at every value of a field of the workload."""
    result: Curves = {name: [] for name in STYLES}
    for value in values:
        variant = replace(workload, **{field: value})
        runs = {name: load(name)(variant).run for name in STYLES}
        for name, times in interleaved(runs, rounds=rounds, seconds=seconds).items():
            result[name].append((value, float(np.median(times))))
    return result


def draw(panels: dict[str, Any], path: Path) -> None:
    """Draw the curves, one panel each, on logarithmic axes."""
    with plt.rc_context(STYLE | {"svg.hashsalt": "speed"}):
        figure, axes = plt.subplots(2, 2, figsize=(7.2, 5.4), layout="constrained")
        for axis, (label, panel) in zip(axes.flat, panels.items(), strict=True):
            for name, points in panel.items():
                color, marker, line = STYLES[name]
                x, y = zip(*points, strict=True)
                axis.loglog(
                    x, 1e3 * np.array(y), color=color, marker=marker, linestyle=line, markersize=4, label=name
                )
            axis.set_xticks(x, [str(value) for value in x])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.yaxis.set_minor_locator(NullLocator())
            axis.set_xlabel(label)
            axis.set_ylabel("ms per outer step")
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
