"""Which tasks are underfit, and which overfit?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from torch import Tensor
from torch.func import grad
from torch.utils import _pytree as pytree

from metalens.adapted_tasks import AdaptedTasks
from metalens.data import Split, TaskDistribution
from metalens.errors import MetaLensError
from metalens.evaluation import evaluate, mean_scores
from metalens.experiments import Recipe
from metalens.experiments.arms import Cell, groups_of, runs_of
from metalens.experiments.experiment import Watcher
from metalens.learners import GradientLearner, Learner
from metalens.metrics import METRICS
from metalens.reports.figures import COLORS, STYLE, WIDTH
from metalens.training.hooks import Hooks
from metalens.training.run import TrainingRun
from metalens.training.train import train
from paper.arms import ArmStudy, Point
from paper.comparison import (
    agreement,
    compare,
    is_lower_better,
    mean_interval,
    outcome,
    width_decimals,
)
from paper.drawing import GRID
from paper.study import Drawing, Tables

GROUPS = ("D1", "D2", "D3", "D4")  # of falling complexity
SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class ComplexityStudy(ArmStudy):
    """Scores of training and test tasks in the course of training, by the complexity of the tasks.

    The complexity of a task is the squared norm of the gradient of its support loss at the meta-parameters
    that the plain learner has reached at the end of its training; its quartiles, for training and for test
    tasks, are the groups D1 (the most complex) to D4. Both arms see the same groups. Nothing is validated:
    the last weights count.

    Args:
        weight: strength of TRLearner's term.
        observations: how often the tasks are scored in the course of training.
        observed: tasks of each split that are scored, at most; a pool of training tasks may have fewer.
    """

    weight: float = 0.1
    observations: int = 20
    observed: int = 200

    axis: ClassVar[str] = "complexity"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.observations < 2 or self.observed < len(GROUPS):
            raise MetaLensError(
                f"Complexity needs 2 observations and {len(GROUPS)} observed tasks, got "
                f"{self.observations} and {self.observed}."
            )

    def points(self) -> list[Point]:
        return [Point(self.reference, 0), Point("TRLearner", 0, f"TRLearner(weight={self.weight})")]

    def measure(self, folder: Path, watcher: Watcher) -> Tables:
        """Train the arms, and score tasks on the way.

        Returns:
            `"tasks"`: difficulty and group of every task; `"curves"`: the mean score of every group at every
            observation; `"results"`: the last scores of all tasks, of which the split is the panel and the
            group the setting; `"summary"`, see `compare`.
        """
        series = {point.regularizers: point.series for point in self.points()}
        part = self.recipe(regularizers=list(series), n_val_tasks=0)
        scores, difficulties = [], []
        for cells in groups_of(part, part.machine.fabric()):
            names = [series[cell.arm.regularizers] for cell in cells]
            runs = runs_of(part, cells)
            scores.append(self._train(part, cells, runs, names, watcher))
            at_end = scores[-1][(scores[-1]["step"] == part.steps) & (scores[-1]["split"] == "test")]
            for cell, run, name in zip(cells, runs, names, strict=True):
                of_cell = (at_end["series"] == name) & (at_end["seed"] == cell.seed)
                watcher.end_cell(cell, mean_scores(at_end[of_cell]), run.diverged)
                if name == self.reference:
                    difficulties += list(self._difficulties(part, cell.seed, run.objective.learner))
        tasks = pd.concat(difficulties, ignore_index=True)
        rows = pd.concat(scores, ignore_index=True).merge(tasks, on=["split", "seed", "task"])
        rows["series"] = pd.Categorical(rows["series"], list(series.values()))
        rows = rows.sort_values(["series", "group", "step"], kind="stable").astype({"series": str})
        by = ["series", "seed", "step", "split", "group", "metric"]
        last = rows[rows["step"] == rows["step"].max()].rename(columns={"split": "panel", "group": "setting"})
        results = last[["panel", "series", "setting", "seed", "task", "metric", "value"]]
        return {
            "summary": compare(results, self.reference),
            "curves": rows.groupby(by, sort=False)["value"].mean().reset_index(),
            "results": results,
            "tasks": tasks,
        }

    def drawings(self, tables: Tables) -> dict[str, Drawing]:
        caption = (
            "Mean score of the adapted models by complexity group, D1 the most complex quarter of the tasks; "
            "the band is the 95% interval over seeds. Solid: test tasks; dashed: training tasks."
        )
        return {"curves": Drawing(_curves(_primary_curves(tables["curves"])), caption)}

    def findings(self, tables: Tables) -> list[str]:
        curves, rows = _primary_curves(tables["curves"]), tables["summary"]
        metric = curves["metric"].iloc[0]
        plain = curves[curves["series"] == self.reference]
        trends = {group: _trend(_late_change(plain, group), metric) for group in GROUPS}
        test = rows[(rows["metric"] == metric) & (rows["panel"] == "test") & (rows["series"] == "TRLearner")]
        signs = [trend.sign for trend in trends.values()]
        expected = (1, 1, -1, -1)  # D1, D2 improve to the end; D3, D4 get worse
        holds = None
        if any(sign == -other for sign, other in zip(signs, expected, strict=True)):
            holds = False
        elif tuple(signs) == expected:
            holds = True
        return [
            f"In the last half of the plain learner's training, test {metric} of "
            + ", ".join(f"{group} {trend.words}" for group, trend in trends.items())
            + ".",
            f"At the end, training tasks are ahead of test tasks by {self._gaps(plain, metric)}.",
            outcome(test, "complexity groups with TRLearner", f"{self.reference} in the same group", "group"),
            agreement(
                "at the end complex tasks (D1, D2) still improve and simple ones (D3, D4) overfit", holds
            ),
        ]

    def _gaps(self, curves: pd.DataFrame, metric: str) -> str:
        """Return in words how much better the tasks of every group are in training, at the end."""
        sign = -1 if is_lower_better(metric) else 1
        gaps = {
            group: sign * (_at_end(curves, group, "train") - _at_end(curves, group, "test"))
            for group in GROUPS
        }
        return ", ".join(f"{_with_interval(gap, metric)} in {group}" for group, gap in gaps.items())

    def _train(
        self, part: Recipe, cells: Sequence[Cell], runs: list[TrainingRun], names: list[str], watcher: Watcher
    ) -> pd.DataFrame:
        """Train runs side by side, and return the scores of all tasks at every observation."""
        frames: list[pd.DataFrame] = []
        steps = set(np.linspace(0, part.steps, self.observations + 1).round().astype(int).tolist())
        observed = {
            (cell.seed, split): part.distribution(split, cell.seed) for cell in cells for split in SPLITS
        }

        def observe(step: int, loss: float) -> None:
            watcher.step(step, loss)
            if step in steps:
                for cell, run, name in zip(cells, runs, names, strict=True):
                    for split in SPLITS:
                        tasks, learner = observed[cell.seed, split], run.objective.learner
                        n = self._n_observed(tasks)
                        rows = evaluate(learner, tasks, n_tasks=n, batching=part.machine.batching)
                        frames.append(rows.assign(series=name, seed=cell.seed, step=step, split=split))

        watcher.start_training(cells, part.steps)
        settings, fabric = part.training(cells[0].seed), part.machine.fabric()
        train(runs, settings, part.machine, fabric, hooks=Hooks(on_step=observe))
        return pd.concat(frames, ignore_index=True)

    def _n_observed(self, tasks: TaskDistribution) -> int:
        return self.observed if tasks.pool_size is None else min(tasks.pool_size, self.observed)

    def _difficulties(self, part: Recipe, seed: int, learner: Learner) -> Iterator[pd.DataFrame]:
        """Yield the difficulty and the group of the observed tasks of each split."""
        for split in SPLITS:
            tasks = part.distribution(split, seed)
            values = difficulty(learner, tasks, self._n_observed(tasks)).numpy()
            place = np.argsort(np.argsort(-values)) * len(GROUPS) // len(values)
            groups = [GROUPS[number] for number in place]
            columns = {"split": split, "seed": seed, "task": range(len(values)), "difficulty": values}
            yield pd.DataFrame({**columns, "group": groups})


def difficulty(learner: Learner, tasks: TaskDistribution, n_tasks: int) -> Tensor:
    """Return the squared norm of the gradient of each task's support loss at the meta-parameters, `(n,)`.

    Args:
        learner: one that adapts by gradient steps.
        tasks: where the tasks come from, numbers 0 to n - 1.
        n_tasks: n.

    Raises:
        MetaLensError: the learner has no such gradient.

    >>> from metalens import MAML, Sinusoid, mlp
    >>> difficulty(MAML(mlp()), Sinusoid("test"), n_tasks=3).shape
    torch.Size([3])
    """
    if not isinstance(learner, GradientLearner):
        raise MetaLensError(
            f"Difficulty is a gradient's norm, and {type(learner).__name__} adapts without; use MAML or ANIL."
        )

    def of_task(z: Tensor, y: Tensor) -> Tensor:
        gradients = grad(learner.support_loss)(learner.initial_state(z, y), z, y)
        return torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum()

    batch = pytree.tree_map(lambda tensor: tensor.to(learner.device), tasks.batch(range(n_tasks)))
    with torch.no_grad():
        adapted = AdaptedTasks(learner, batch)
        return adapted.map(of_task, adapted.support_encoding, batch.support.y).cpu()


def _primary_curves(curves: pd.DataFrame) -> pd.DataFrame:
    return curves[curves["metric"] == curves["metric"].iloc[0]]


def _at_end(curves: pd.DataFrame, group: str, split: str, step: int | None = None) -> np.ndarray:
    rows = curves[(curves["group"] == group) & (curves["split"] == split)]
    rows = rows[rows["step"] == (rows["step"].max() if step is None else step)]
    return rows.sort_values("seed")["value"].to_numpy(float)


def _late_change(curves: pd.DataFrame, group: str) -> np.ndarray:
    """Return how a group's score on test tasks changes in the last half of training, for every seed."""
    steps = np.sort(curves["step"].unique())
    middle = int(steps[np.abs(steps - steps[-1] / 2).argmin()])
    return _at_end(curves, group, "test") - _at_end(curves, group, "test", middle)


class _Trend(NamedTuple):
    sign: int  # 1 for the better, -1 for the worse, 0 if open
    words: str


def _trend(changes: np.ndarray, metric: str) -> _Trend:
    _, low, high = mean_interval(-changes if is_lower_better(metric) else changes)
    sign = 1 if low > 0 else -1 if high < 0 else 0
    word = {1: "improves", -1: "worsens", 0: "shows no clear change"}[sign]
    return _Trend(sign, f"{word} ({_with_interval(changes, metric)})")


def _with_interval(values: np.ndarray, metric: str) -> str:
    numbers = [number * METRICS[metric].scale for number in mean_interval(values)]
    if not np.isfinite(numbers).all():
        return "n/a"
    digits = width_decimals(numbers[2] - numbers[1])
    mean, low, high = (f"{number:+.{digits}f}".replace("-", "−") for number in numbers)
    return f"{mean} [{low}, {high}]"


@matplotlib.rc_context(STYLE)
def _curves(curves: pd.DataFrame) -> Figure:
    metric = curves["metric"].iloc[0]
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    panels = figure.subplots(1, len(GROUPS), sharey=True)
    for axes, group in zip(panels, GROUPS, strict=True):
        of_group = curves[curves["group"] == group]
        for number, (series, rows) in enumerate(of_group.groupby("series", sort=False)):
            for split, line in (("test", "-"), ("train", "--")):
                by_step = rows[rows["split"] == split].groupby("step")["value"]
                band = np.array([mean_interval(values.to_numpy(float)) for _, values in by_step])
                steps = np.array(list(by_step.groups))
                label = f"{series}, {'training' if split == 'train' else split} tasks"
                axes.plot(steps, band[:, 0], line, color=COLORS[number], linewidth=1.5, label=label)
                axes.fill_between(
                    steps, band[:, 1], band[:, 2], color=COLORS[number], alpha=0.12, linewidth=0
                )
        axes.set_title(
            f"{group}{', most complex' if group == 'D1' else ', simplest' if group == 'D4' else ''}"
        )
        axes.set_xlabel("outer step")
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        if METRICS[metric].unit != "fraction":
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel(metric)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2)
    return figure
