"""Recipes for tables: activity of molecules, and symptoms of patients."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from metalens.data import ChemblAssays, Kiba, Parkinsons, Split, TaskDistribution
from metalens.data.catalog.assays import N_BITS
from metalens.data.catalog.parkinsons import N_INPUTS
from metalens.data.tables.targets import Standardize
from metalens.experiments.recipe import Recipe
from metalens.networks import Network, mlp
from metalens.specs.defaults import MOLECULE_PRESETS, TABLE_PRESETS, Presets


@dataclass(frozen=True, kw_only=True)
class TableRecipe(Recipe):
    """Tasks from a table, with a perceptron.

    Args:
        n_train_tasks: tasks to train on, chosen by the seed; null for all.
        n_train_query: query rows of training tasks; null for as many as in the others.
        whole_tasks: validate and test on all rows that are not in the support, whatever their number.
        standardize: targets by the statistics of train or task, or none.
        hidden: sizes of the hidden layers.
        folder: folder with the table; by default METALENS_DATA.
    """

    n_train_tasks: int | None = None
    n_train_query: int | None = None
    whole_tasks: bool = False
    standardize: Standardize = "train"
    hidden: list[int] = field(default_factory=lambda: [128, 128])
    folder: str | None = None

    family: ClassVar[Any]  # of `TableTasks`
    n_inputs: ClassVar[int]
    own: ClassVar[tuple[str, ...]] = ()  # further settings of the recipe's tasks
    presets: ClassVar[Presets] = MOLECULE_PRESETS

    def distribution(self, split: Split, seed: int) -> TaskDistribution:
        n_query = None if self.whole_tasks else self.n_query
        n_query = (self.n_train_query or self.n_query) if split == "train" else n_query
        settings = self.values("k_shot", "n_train_tasks", "standardize", "folder", *self.own)
        return self.family(split, n_query=n_query, seed=seed, **settings)

    def network(self) -> Network:
        return mlp(self.n_inputs, 1, self.hidden)


@dataclass(frozen=True, kw_only=True)
class KibaRecipe(TableRecipe):
    """Kinase activity from fingerprints: MLP 1024-128-128-1, 8 kinases of 16 molecules, five steps of 0.03.

    Network, step sizes and numbers of steps were chosen on validation kinases, with another seed than those
    of the results.

    Args:
        new_molecules: no two splits share a molecule.
    """

    new_molecules: bool = False

    family: ClassVar[Any] = Kiba
    n_inputs: ClassVar[int] = N_BITS
    own: ClassVar[tuple[str, ...]] = ("new_molecules",)


@dataclass(frozen=True, kw_only=True)
class ChemblRecipe(TableRecipe):
    """Activity in assays from fingerprints, from 16 molecules to all others of an assay.

    Args:
        stratified: divide the assays into new splits, evenly by organism.
    """

    stratified: bool = False

    family: ClassVar[Any] = ChemblAssays
    n_inputs: ClassVar[int] = N_BITS
    own: ClassVar[tuple[str, ...]] = ("stratified",)


@dataclass(frozen=True, kw_only=True)
class ParkinsonsRecipe(TableRecipe):
    """Motor symptoms of patients from 10 recordings of their voice."""

    family: ClassVar[Any] = Parkinsons
    n_inputs: ClassVar[int] = N_INPUTS
    presets: ClassVar[Presets] = TABLE_PRESETS


# fmt: off
TABLE_RECIPES: list[Recipe] = [
    KibaRecipe(
        name="drug-kiba", description="Activity against kinases from 16 molecules and their fingerprints",
        learner=["MAML", "Ridge", "KNN", "RandomForest"], k_shot=16, meta_batch_size=8, steps=2000,
        validate_every=200, n_test_tasks=200,
    ),
    ChemblRecipe(
        name="drug-chembl",
        description="Activity in unrelated assays from 16 molecules and their fingerprints",
        learner=["DeepKernelGP", "MAML", "Ridge", "GaussianProcess", "KNN", "RandomForest"], k_shot=16,
        n_train_query=10, whole_tasks=True, hidden=[128, 64], meta_batch_size=8, steps=300, validate_every=20,
        n_val_tasks=80, n_test_tasks=160,
    ),
    ParkinsonsRecipe(
        name="parkinsons", description="Motor symptoms of patients from 10 recordings of their voice",
        learner=["MAML", "MeanPredictor", "Ridge", "KNN", "RandomForest"], k_shot=10, n_query=40,
        hidden=[64, 64], meta_batch_size=8, steps=1000, validate_every=100, n_val_tasks=80, n_test_tasks=80,
    ),
]
