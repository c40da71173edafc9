"""Recipe for hourly time series."""

from dataclasses import dataclass, field
from typing import ClassVar

from metalens.data import M4Hourly, Split
from metalens.data.series import Scaling
from metalens.experiments.recipe import Recipe
from metalens.networks import Network, forecast_mlp
from metalens.specs.defaults import M4_PRESETS, Presets


@dataclass(frozen=True, kw_only=True)
class M4Recipe(Recipe):
    """The next two days of an hourly series from its last week.

    Step sizes and network were chosen on validation series, with another seed than those of the results.

    Args:
        n_train_tasks: series to train on, chosen by the seed; null for all 290.
        length: hours that are seen.
        scale: windows by their own inputs (window), by the training series (train), or none.
        hidden: sizes of the hidden layers.
        folder: folder with m4_hourly.csv.gz; by default METALENS_DATA.
    """

    n_train_tasks: int | None = None
    length: int = 168
    scale: Scaling = "window"
    hidden: list[int] = field(default_factory=lambda: [128, 128])
    folder: str | None = None

    presets: ClassVar[Presets] = M4_PRESETS

    def distribution(self, split: Split, seed: int) -> M4Hourly:
        settings = self.values("length", "k_shot", "n_query", "n_train_tasks", "scale", "folder")
        return M4Hourly(split, seed=seed, **settings)

    def network(self) -> Network:
        tasks = self.distribution("train", seed=0)
        return forecast_mlp(self.length, tasks.horizon, season=tasks.season, hidden=self.hidden)


# fmt: off
M4_RECIPES: list[Recipe] = [
    M4Recipe(
        name="m4-hourly", description="Two days of hourly series from the week before",
        learner=["MAML", "SeasonalBoosting", "SeasonalNaive", "Ridge"],
        meta_batch_size=16, n_query=3, steps=2000, schedule="cosine", n_val_tasks=62, validate_every=200,
        n_test_tasks=62,
    ),
]
