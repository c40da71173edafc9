"""Recipe for the activity of molecules against kinases."""

from __future__ import annotations

from dataclasses import dataclass, field

from metalens.benchmarks.recipe import Recipe, Settings
from metalens.distributions import Kiba, Split, TaskDistribution
from metalens.distributions.kiba import N_BITS
from metalens.distributions.table import Standardize
from metalens.networks import Network, mlp

SETTINGS: dict[str, Settings] = {
    "MAML": {"inner_lr": 0.03, "inner_steps": 5},
    "KNN": {"metric": "cosine"},
}


@dataclass(frozen=True, kw_only=True)
class KibaRecipe(Recipe):
    """Kinase activity from fingerprints: MLP 1024-128-128-1, 8 kinases of 16 molecules, five steps of 0.03.

    Network, step sizes and numbers of steps were chosen on validation kinases, with another seed than those
    of the results.

    Args:
        n_train_tasks: kinases to train on, chosen by the seed; null for all 110.
        standardize: targets by the statistics of train or task, or none.
        hidden: sizes of the hidden layers.
        folder: folder with kiba_kinases.csv.gz; by default METALENS_DATA.
    """

    n_train_tasks: int | None = None
    standardize: Standardize = "train"
    hidden: list[int] = field(default_factory=lambda: [128, 128])
    folder: str | None = None

    def tuned(self, learner: str) -> Settings:
        return SETTINGS.get(learner, {})

    def distribution(self, split: Split, seed: int) -> TaskDistribution:
        return Kiba(
            split,
            k_shot=self.k_shot,
            n_query=self.n_query,
            n_train_tasks=self.n_train_tasks,
            standardize=self.standardize,
            seed=seed,
            folder=self.folder,
        )

    def network(self) -> Network:
        return mlp(N_BITS, 1, self.hidden)


KIBA_RECIPES: list[Recipe] = [
    KibaRecipe(
        name="kiba",
        description="Activity against kinases from 16 molecules and their fingerprints",
        learner=["MAML", "Ridge", "KNN", "RandomForest"],
        k_shot=16,
        meta_batch=8,
        steps=2000,
        validate_every=200,
        n_test_tasks=200,
    )
]
