"""Theorems 2 and 3, seen: what accurate relations are worth against all-ones and shuffled ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pandas as pd
import torch
from torch import Tensor

from metalens.errors import MetaLensError
from metalens.experiments.experiment import Watcher
from paper.comparison import agreement, compare, in_words, significant
from paper.drawing import against_setting
from paper.study import Drawing, Study, Tables

ACCURATE, UNIFORM, SHUFFLED, ALONE = "accurate", "all-ones", "shuffled", "own model"


@dataclass(frozen=True, kw_only=True)
class ExcessRiskStudy(Study):
    """Linear tasks with a latent number, each predicted by the models of the others.

    Task i has a latent `z_i ~ U[(1 - s) / 2, (1 + s) / 2]` with spread s, and the targets
    `y = <w(z_i), x> + e`, `x ~ N(0, I_d)`, `e ~ N(0, noise^2)`, where w is a random smooth curve, drawn anew
    in each repetition; so targets are Lipschitz in z. Every task has a model `<w_i, x>`, by ridge regression
    of its n examples. What is scored is the average inside TRLearner's term, the models of the others
    weighted by their relations:

        a_i = sum_{p != i} m_ip w_p / sum_{p != i} m_ip

    Relations are accurate, `m_ip = exp(-|z_i - z_p| / width)`; all ones; or the accurate ones of wrongly
    dealt tasks. The excess risk is `|a_i - w(z_i)|^2`, beside `|w_i - w(z_i)|^2` of the task's own model.

    With `estimator="joint"` the models are learned together, as free parameters of TRLearner's objective
    without an inner loop, and the excess risk is `|w_i - w(z_i)|^2` throughout:

        (1/T) sum_i [ L(i; w_i) + weight * L(i; a_i) + ridge * |w_i|^2 ]

    with L(i; w) the mean squared error of w on the examples of task i.

    Args:
        spreads: values of s.
        samples: values of n.
        tasks: values of T.
        spread: s where something else varies.
        n_samples: n where something else varies.
        n_tasks: T where something else varies.
        repetitions: of each seed; all draw their own tasks.
        estimator: "average" of the others' models, or "joint" minimization.
        weight: strength of the term in joint minimization.
        width: of the accurate relations.
        noise: standard deviation of the noise.
        n_features: d.
        ridge: strength of the penalty that makes the solution unique.
    """

    spreads: list[float] = field(default_factory=lambda: [0.0, 0.1, 0.25, 0.5, 1.0])
    samples: list[int] = field(default_factory=lambda: [2, 5, 10, 20, 50])
    tasks: list[int] = field(default_factory=lambda: [3, 5, 10, 20, 40])
    spread: float = 1.0
    n_samples: int = 5
    n_tasks: int = 20
    repetitions: int = 100
    estimator: Literal["average", "joint"] = "average"
    weight: float = 1.0
    width: float = 0.1
    noise: float = 0.5
    n_features: int = 5
    ridge: float = 0.01

    panels: ClassVar[tuple[str, ...]] = ("spread of the tasks", "examples per task", "number of tasks")

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.samples) < 1 or min(self.tasks) < 3 or min(self.repetitions, self.n_features) < 1:
            raise MetaLensError(
                "Excess risk needs at least 3 tasks, and 1 example, repetition and feature, got "
                f"tasks={self.tasks}, samples={self.samples}, repetitions={self.repetitions} and "
                f"n_features={self.n_features}."
            )
        if not (min(self.spreads) >= 0 and max(self.spreads) <= 1 and self.width > 0 and self.ridge > 0):
            raise MetaLensError(
                f"spreads must lie between 0 and 1, and width and ridge above 0, got {self.spreads}, "
                f"{self.width} and {self.ridge}."
            )

    def measure(self, folder: Path, watcher: Watcher) -> Tables:
        """Do all repetitions.

        Returns:
            `"results"`: the excess risk of every seed, the mean over its repetitions and tasks; `"summary"`:
            accurate relations as the reference, see `compare`.
        """
        results = pd.DataFrame(list(self._results()))
        return {"summary": compare(results, ACCURATE), "results": results}

    def drawings(self, tables: Tables) -> dict[str, Drawing]:
        caption = (
            f"Left: mean excess risk with its 95% interval over {len(self.seeds)} × {self.repetitions} "
            "repetitions. Right: what it is more than with accurate relations, on the same data."
        )
        return {"excess-risk": Drawing(against_setting(tables["summary"], ACCURATE), caption)}

    def findings(self, tables: Tables) -> list[str]:
        rows = tables["summary"]
        spread = rows[(rows["panel"] == self.panels[0]) & (rows["setting"] > 0)]
        uniform, shuffled, alone = (rows[rows["series"] == name] for name in (UNIFORM, SHUFFLED, ALONE))
        apart = spread[spread["series"] == UNIFORM]
        widest = apart.loc[apart["setting"].idxmax()]
        found = [
            f"At a spread of {widest['setting']:g}, all-ones against accurate relations: {in_words(widest)}."
        ]
        for name, of_one in ((UNIFORM, uniform), (SHUFFLED, shuffled), (ALONE, alone)):
            worse, better = (len(significant(of_one, verdict)) for verdict in ("worse", "better"))
            found.append(
                f"{name}: in {worse} of {len(of_one)} settings a larger excess risk than accurate "
                f"relations, in {better} a smaller one, corrected for their number."
            )
        holds = None
        if len(significant(apart, "better")):
            holds = False
        elif len(significant(apart, "worse")) == len(apart):
            holds = True
        return [*found, agreement("accurate relations have a smaller excess risk than all-ones", holds)]

    def _results(self) -> Iterator[dict[str, object]]:
        for panel, cells in zip(self.panels, self._cells(), strict=True):
            for setting, (spread, n_samples, n_tasks) in cells.items():
                for seed in self.seeds:
                    generator = torch.Generator().manual_seed(seed)
                    for series, risk in self.excess_risks(generator, spread, n_samples, n_tasks).items():
                        yield {
                            "panel": panel, "series": series, "setting": setting, "seed": seed, "task": 0,
                            "metric": "excess risk", "value": risk.mean().item(),
                        }  # fmt: skip

    def _cells(self) -> Iterator[dict[float, tuple[float, int, int]]]:
        """Yield for each panel what spread, samples and tasks a setting stands for."""
        yield {s: (s, self.n_samples, self.n_tasks) for s in self.spreads}
        yield {n: (self.spread, n, self.n_tasks) for n in self.samples}
        yield {n: (self.spread, self.n_samples, n) for n in self.tasks}

    def excess_risks(
        self, generator: torch.Generator, spread: float, n_samples: int, n_tasks: int
    ) -> dict[str, Tensor]:
        """Return the excess risk of every repetition and task, `(R, T)`, by the kind of relations."""
        size = (self.repetitions, n_tasks)
        latent = 0.5 + spread * (torch.rand(size, generator=generator, dtype=torch.float64) - 0.5)
        truth = self._curve(generator)(latent)  # (R, T, d)
        x = torch.randn(*size, n_samples, self.n_features, generator=generator, dtype=torch.float64)
        noise = torch.randn(*size, n_samples, 1, generator=generator, dtype=torch.float64)
        y = x @ truth.unsqueeze(-1) + self.noise * noise
        gram, moment = x.mT @ x / n_samples, (x.mT @ y / n_samples).squeeze(-1)
        accurate = torch.exp(-(latent.unsqueeze(-1) - latent.unsqueeze(-2)).abs() / self.width)
        cycle = torch.roll(torch.arange(n_tasks), 1)  # latents are in random order already
        kinds = {
            ACCURATE: accurate,
            UNIFORM: torch.ones_like(accurate),
            SHUFFLED: accurate[:, cycle][:, :, cycle],
        }
        alone = solve(gram, moment, accurate, 0.0, self.ridge)
        if self.estimator == "average":
            models = {name: shares_of(matrix) @ alone for name, matrix in kinds.items()}
        else:
            models = {
                name: solve(gram, moment, matrix, self.weight, self.ridge) for name, matrix in kinds.items()
            }
        return {name: (w - truth).square().sum(-1) for name, w in {**models, ALONE: alone}.items()}

    def _curve(self, generator: torch.Generator) -> SmoothCurve:
        return SmoothCurve(self.repetitions, self.n_features, generator)


class SmoothCurve:
    """Random smooth curves `w(z) = sum_k a_k cos(pi k z + b_k) / k`, k = 1 ... 3, scaled to E |w|^2 = 1.

    Args:
        n: how many curves.
        n_features: dimensions of the space in which they run.
        generator: of a and b.

    >>> curve = SmoothCurve(2, 3, torch.Generator().manual_seed(0))
    >>> curve(torch.zeros(2, 5, dtype=torch.float64)).shape
    torch.Size([2, 5, 3])
    """

    n_waves: ClassVar[int] = 3

    def __init__(self, n: int, n_features: int, generator: torch.Generator) -> None:
        size = (n, 1, n_features, self.n_waves)
        self.k = torch.arange(1, self.n_waves + 1, dtype=torch.float64)
        self.a = torch.randn(size, generator=generator, dtype=torch.float64)
        self.b = 2 * math.pi * torch.rand(size, generator=generator, dtype=torch.float64)
        self.scale = (2 / (n_features * (1 / self.k**2).sum())).sqrt()

    def __call__(self, z: Tensor) -> Tensor:
        """Return the points `(R, T, d)` at `(R, T)`."""
        waves = torch.cos(math.pi * self.k * z[..., None, None] + self.b)
        return self.scale * (self.a * waves / self.k).sum(-1)


def shares_of(matrix: Tensor) -> Tensor:
    """Return what every other task counts in the average of a task: zero diagonal, rows that sum to 1.

    >>> shares_of(torch.tensor([[1.0, 1.0, 3.0], [1.0, 1.0, 1.0], [3.0, 1.0, 1.0]]))
    tensor([[0.0000, 0.2500, 0.7500],
            [0.5000, 0.0000, 0.5000],
            [0.7500, 0.2500, 0.0000]])
    """
    others = matrix.masked_fill(torch.eye(matrix.shape[-1], dtype=torch.bool), 0.0)
    return others / others.sum(-1, keepdim=True)


def solve(gram: Tensor, moment: Tensor, matrix: Tensor, weight: float, ridge: float) -> Tensor:
    """Return the models that minimize TRLearner's objective over linear functions, see `ExcessRiskStudy`.

    The objective is quadratic: with `A_i` the second moments of task i's inputs, `b_i` those of inputs and
    targets, and c the relations with zero diagonal and rows that sum to 1, the models solve

        A_i w_i + ridge w_i + weight sum_j c_ji A_j sum_p c_jp w_p = b_i + weight sum_j c_ji b_j

    Args:
        gram: A, `(R, T, d, d)`.
        moment: b, `(R, T, d)`.
        matrix: relations, `(R, T, T)`, not negative; the diagonal does not count.
        weight: strength of the term.
        ridge: strength of the penalty.

    Returns:
        `(R, T, d)`.

    >>> one = torch.ones(1, 3, 1, dtype=torch.float64)
    >>> solve(one.unsqueeze(-1), one, torch.ones(1, 3, 3), weight=1.0, ridge=1e-9).round(decimals=3).flatten()
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    n_tasks, d = moment.shape[-2:]
    itself, shares = torch.eye(n_tasks), shares_of(matrix.to(moment.dtype))
    system = torch.einsum("rji,rjp,rjab->riapb", shares, shares, gram) * weight
    system = system + torch.einsum("riab,ip->riapb", gram, itself.to(gram.dtype))
    system = system.flatten(3).flatten(1, 2) + ridge * torch.eye(n_tasks * d, dtype=gram.dtype)
    target = moment + weight * shares.mT @ moment
    return torch.linalg.solve(system, target.flatten(1)).unflatten(1, (n_tasks, d))
