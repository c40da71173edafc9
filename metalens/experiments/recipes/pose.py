"""Recipe for the pose of objects."""

from dataclasses import dataclass, field
from typing import ClassVar

from metalens.data import Pose, Split
from metalens.experiments.recipe import Recipe
from metalens.networks import Network, pose_net
from metalens.specs.defaults import POSE_PRESETS, Presets

TURNED = "MetaAug(shift=5, period=10)"


@dataclass(frozen=True, kw_only=True)
class PoseRecipe(Recipe):
    """Pose on the published scale, 10 objects a step, beside models of the pixels of one object.

    Views of 32 x 32 pixels and 16 channels, which two cores can train; published are 128 pixels (shrink 1),
    64 channels and MAML, whose five inner steps of 0.01 in training and 20 in testing are the settings here.
    `MetaAug` turns each object by its own angle; without it, the network memorizes the training objects.

    Args:
        n_train_tasks: objects to train on, chosen by the seed; null for all.
        min_asymmetry: objects that look more alike from all sides are left out.
        shrink: each square of so many pixels a side of a view becomes one; 1 for 128 x 128 pixels.
        n_filters: channels of the adapted blocks of the network.
        folder: folder with pose_objects.npz; by default METALENS_DATA.
    """

    n_train_tasks: int | None = None
    min_asymmetry: float = 0.0
    shrink: int = 4
    n_filters: int = 16
    folder: str | None = None
    learner: list[str] = field(
        default_factory=lambda: ["R2D2", "MeanPredictor", "Ridge", "KNN(n_neighbors=1)", "RandomForest"]
    )
    regularizers: list[str] = field(
        default_factory=lambda: ["none", TURNED, f"{TURNED} + TRLearner(neighbors=3)"]
    )
    meta_batch_size: int = 10
    k_shot: int = 15
    n_query: int = 15

    presets: ClassVar[Presets] = POSE_PRESETS

    def distribution(self, split: Split, seed: int) -> Pose:
        settings = self.values("k_shot", "n_query", "n_train_tasks", "min_asymmetry", "shrink", "folder")
        return Pose(split, seed=seed, **settings)

    def network(self) -> Network:
        return pose_net(n_filters=self.n_filters, image_size=self.distribution("train", seed=0).image_size)


# fmt: off
POSE_RECIPES: list[Recipe] = [
    PoseRecipe(
        name="pose", description="Azimuth of new objects from 15 grey views", steps=1000, schedule="cosine",
        n_val_tasks=60, validate_every=100, n_test_tasks=120,
    ),
]
