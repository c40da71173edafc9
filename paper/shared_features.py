"""Theorem 1, seen: what features learned for another task are worth, by its similarity."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metalens.errors import MetaLensError
from metalens.experiments.experiment import Watcher
from paper.comparison import agreement, compare, in_words, mean_interval, width_decimals
from paper.drawing import against_setting
from paper.study import Drawing, Study, Tables

OWN, OTHER, RANDOM = "own features", "with the other task's feature", "with a random feature"


@dataclass(frozen=True, kw_only=True)
class SharedFeatureStudy(Study):
    """Two linear classification tasks, one of which gets a feature learned for the other.

    Task t has labels `sign <u_t, x>`, flipped with a probability, of `x ~ N(0, I_d)`; the similarity of the
    tasks is `<u_1, u_2>`, the cosine of their unit directions. Task 2 learns `v`, by ridge regression of its
    labels. Task 1 then learns by ridge regression from its own features x alone; from
    `(x, sqrt(d) <v / |v|, x>)`, with as much variance in the other task's feature as in all of x; or with a
    random direction in the place of v. The accuracy of a linear classifier w is exact,
    `1 - arccos(cos(w, u_1)) / pi`, on labels that are not flipped.

    Args:
        similarities: cosines of the tasks' directions.
        samples: numbers of examples of task 1.
        similarity: the cosine where the examples vary.
        n_samples: examples of task 1 where the similarity varies.
        n_other: examples of task 2.
        repetitions: of each seed; all draw their own tasks.
        flip: probability that a label is wrong.
        n_features: d.
        ridge: strength of the penalty, `ridge * |w|^2` beside the sum of squares.
    """

    similarities: list[float] = field(default_factory=lambda: [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    samples: list[int] = field(default_factory=lambda: [5, 10, 20, 50, 200])
    similarity: float = 0.8
    n_samples: int = 10
    n_other: int = 200
    repetitions: int = 300
    flip: float = 0.1
    n_features: int = 20
    ridge: float = 10.0

    panels: ClassVar[tuple[str, str]] = ("similarity of the tasks", "examples of the task")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (
            0 <= min(*self.similarities, self.similarity) <= max(*self.similarities, self.similarity) <= 1
        ):
            raise MetaLensError(f"Similarities must lie between 0 and 1, got {self.similarities}.")
        if min(*self.samples, self.n_samples, self.n_other, self.repetitions) < 1 or self.n_features < 2:
            raise MetaLensError("Shared features need at least 2 features, and 1 example and repetition.")
        if not (0 <= self.flip < 0.5 and self.ridge > 0):
            raise MetaLensError(
                f"flip must be below 0.5 and ridge above 0, got {self.flip} and {self.ridge}."
            )

    def measure(self, folder: Path, watcher: Watcher) -> Tables:
        """Do all repetitions.

        Returns:
            `"results"`: the accuracy of every seed, the mean over its repetitions; `"summary"`: own features
            as the reference, see `compare`.
        """
        results = pd.DataFrame(list(self._results()))
        return {"summary": compare(results, OWN), "results": results}

    def drawings(self, tables: Tables) -> dict[str, Drawing]:
        caption = (
            f"Left: mean accuracy of task 1 with its 95% interval over {len(self.seeds)} × "
            f"{self.repetitions} repetitions. Right: gain over its own features alone, on the same data."
        )
        return {"shared-features": Drawing(against_setting(tables["summary"], OWN), caption)}

    def findings(self, tables: Tables) -> list[str]:
        rows = tables["summary"]
        panel = rows[rows["panel"] == self.panels[0]]
        most = panel[(panel["series"] == OTHER) & (panel["setting"] == panel["setting"].max())].iloc[0]
        random = panel[(panel["series"] == RANDOM) & (panel["setting"] == panel["setting"].max())].iloc[0]
        mean, low, high = mean_interval(self._slopes(tables["results"]))
        digits = width_decimals((high - low) * 100)
        claim = "another task's features help, and the more so the more similar it is"
        holds = None
        if low > 0 and most["verdict"] == "better":
            holds = True
        elif high < 0:
            holds = False
        return [
            f"At a similarity of {most['setting']:g}, the other task against none: {in_words(most)}; "
            f"a random one: {in_words(random)}.",
            f"The gain grows by {mean * 100:.{digits}f} points per unit of similarity "
            f"(95% interval {low * 100:.{digits}f} to {high * 100:.{digits}f}).".replace("-", "−"),
            agreement(claim, holds),
        ]

    def _slopes(self, results: pd.DataFrame) -> np.ndarray:
        """Return how much the gain grows with similarity in every seed: the slope of a straight line."""
        panel = results[results["panel"] == self.panels[0]]
        by_series = panel.pivot_table(index=["seed", "setting"], columns="series", values="value")
        gains = (by_series[OTHER] - by_series[OWN]).unstack("setting")
        return np.polyfit(gains.columns.to_numpy(float), gains.to_numpy(float).T, deg=1)[0]

    def _results(self) -> Iterator[dict[str, object]]:
        cells = {
            self.panels[0]: {each: (each, self.n_samples) for each in self.similarities},
            self.panels[1]: {n: (self.similarity, n) for n in self.samples},
        }
        for panel, settings in cells.items():
            for setting, (similarity, n_samples) in settings.items():
                for seed in self.seeds:
                    generator = torch.Generator().manual_seed(seed)
                    for series, accuracy in self.accuracies(generator, similarity, n_samples).items():
                        yield {
                            "panel": panel, "series": series, "setting": setting, "seed": seed, "task": 0,
                            "metric": "accuracy", "value": accuracy.mean().item(),
                        }  # fmt: skip

    def accuracies(self, generator: torch.Generator, similarity: float, n_samples: int) -> dict[str, Tensor]:
        """Return the accuracy of task 1 in every repetition, `(R,)`, by the features that it has."""
        d = self.n_features
        normal = torch.randn(3, self.repetitions, d, generator=generator, dtype=torch.float64)
        own, apart, random = normal / normal.norm(dim=-1, keepdim=True)
        apart = apart - (apart * own).sum(-1, keepdim=True) * own
        apart = apart / apart.norm(dim=-1, keepdim=True)
        other = similarity * own + math.sqrt(1 - similarity**2) * apart
        learned = _ridge(*self._examples(generator, other, self.n_other), self.ridge)
        learned = learned / learned.norm(dim=-1, keepdim=True)
        x, y = self._examples(generator, own, n_samples)
        weights = {OWN: _ridge(x, y, self.ridge)}
        for name, direction in ((OTHER, learned), (RANDOM, random)):
            feature = math.sqrt(d) * x @ direction.unsqueeze(-1)
            w = _ridge(torch.cat((x, feature), dim=-1), y, self.ridge)
            weights[name] = w[:, :d] + math.sqrt(d) * w[:, d:] * direction
        cosines = {name: torch.cosine_similarity(w, own, dim=-1) for name, w in weights.items()}
        return {name: 1 - torch.arccos(cosine.clamp(-1, 1)) / math.pi for name, cosine in cosines.items()}

    def _examples(self, generator: torch.Generator, direction: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Return inputs `(R, n, d)` and labels of -1 and 1, `(R, n)`."""
        x = torch.randn(*direction.shape[:1], n, direction.shape[1], generator=generator, dtype=torch.float64)
        is_wrong = torch.rand(len(direction), n, generator=generator) < self.flip
        y = torch.sign(x @ direction.unsqueeze(-1)).squeeze(-1)
        return x, torch.where(is_wrong, -y, y)


def _ridge(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    system = x.mT @ x + ridge * torch.eye(x.shape[-1], dtype=x.dtype)
    return torch.linalg.solve(system, (x.mT @ y.unsqueeze(-1)).squeeze(-1))
