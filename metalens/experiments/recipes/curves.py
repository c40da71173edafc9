"""Recipes for regression of one-dimensional functions: sinusoids and harmonics."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from metalens.data import CurveDistribution, Harmonic, Sinusoid, Split, TaskDistribution
from metalens.errors import MetaLensError
from metalens.execution.machine import Machine
from metalens.experiments.recipe import ONE_THREAD, Recipe
from metalens.networks import Network, mlp
from metalens.specs.defaults import HARMONIC_PRESETS, SINUSOID_PRESETS, Presets


@dataclass(frozen=True, kw_only=True)
class CurveRecipe(Recipe):
    """Regression of curves with a perceptron.

    Args:
        n_train_tasks: size of the fixed pool of training tasks; null for an unlimited stream.
        noise: standard deviation of the noise on every target.
        hidden: sizes of the hidden layers.
    """

    n_train_tasks: int | None = None
    noise: float = 0.0
    hidden: list[int] = field(default_factory=lambda: [40, 40])
    machine: Machine = ONE_THREAD

    family: ClassVar[type[CurveDistribution]]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_train_tasks is not None and self.n_train_tasks < self.meta_batch_size:
            raise MetaLensError(
                f"n_train_tasks must be at least meta_batch_size, got {self.n_train_tasks} and "
                f"{self.meta_batch_size}: a batch would hold the same task twice."
            )

    def distribution(self, split: Split, seed: int) -> TaskDistribution:
        settings = self.values("k_shot", "n_query", "n_train_tasks", "noise")
        return self.family(split, seed=seed, **settings)

    def network(self) -> Network:
        return mlp(1, 1, self.hidden)

    def curve_distribution(self, seed: int) -> TaskDistribution:
        return replace(self, n_query=200, noise=0.0).distribution("test", seed)


@dataclass(frozen=True, kw_only=True)
class SinusoidRecipe(CurveRecipe):
    """Sinusoid regression by the protocol of MAML (Finn 2017): MLP 1-40-40-1, 25 tasks, one step of 0.01."""

    family: ClassVar[type[Sinusoid]] = Sinusoid
    presets: ClassVar[Presets] = SINUSOID_PRESETS


@dataclass(frozen=True, kw_only=True)
class HarmonicRecipe(CurveRecipe):
    """Harmonic regression: 5,000 training tasks, a wider network and more steps than for sinusoids."""

    n_train_tasks: int | None = 5000
    hidden: list[int] = field(default_factory=lambda: [128, 128])
    family: ClassVar[type[Harmonic]] = Harmonic
    presets: ClassVar[Presets] = HARMONIC_PRESETS


# fmt: off
CURVE_RECIPES: list[Recipe] = [
    SinusoidRecipe(
        name="demo", description="Sinusoids from a pool of 100 tasks: MAML, + TRLearner, + all-ones control",
        regularizers=["none", "TRLearner", "TRLearner(relation=Uniform)"], seeds=[0, 1, 2, 3, 4],
        n_train_tasks=100, meta_batch_size=8, steps=1200, outer_lr=0.01, validate_every=100,
    ),
    SinusoidRecipe(
        name="sinusoid-5shot", description="Sinusoid regression from 5 points, unlimited training tasks",
        steps=70_000, validate_every=5000,
    ),
    SinusoidRecipe(
        name="sinusoid-10shot", description="Sinusoid regression from 10 points, unlimited training tasks",
        k_shot=10, steps=70_000, validate_every=5000,
    ),
    HarmonicRecipe(
        name="harmonic-5shot", description="Harmonic regression from 5 points, 5,000 training tasks",
        steps=20_000, validate_every=2000,
    ),
    HarmonicRecipe(
        name="harmonic-10shot", description="Harmonic regression from 10 points, 5,000 training tasks",
        k_shot=10, steps=20_000, validate_every=2000,
    ),
]
