"""Recipes for classifying handwritten characters from one or five examples."""

from dataclasses import dataclass, field
from typing import Literal

from metalens.data import Omniglot, Split
from metalens.experiments.recipe import Recipe, Settings
from metalens.networks import Network, conv4
from metalens.specs.defaults import OMNIGLOT_MANY_CLASSES, OMNIGLOT_PRESETS


@dataclass(frozen=True, kw_only=True)
class OmniglotRecipe(Recipe):
    """Omniglot with Conv4 and batch statistics of the set at hand.

    Args:
        n_way: classes per task.
        n_filters: channels of every block of Conv4.
        scheme: how characters are split: vinyals (1,028/172/423) or finn (1,100/100/rest).
        slots: random, or fixed: slot j of every task is drawn from the same group of classes.
        n_train_characters: characters to train on, chosen by the seed; null for all.
        rotations: count each quarter turn of a character as a new class.
        folder: folder with the two upstream zips; by default METALENS_DATA, then a download.
    """

    n_way: int = 5
    n_filters: int = 64
    scheme: Literal["vinyals", "finn"] = "vinyals"
    slots: Literal["random", "fixed"] = "random"
    n_train_characters: int | None = None
    rotations: bool = True
    folder: str | None = None
    k_shot: int = 1
    n_query: int = 5
    regularizers: list[str] = field(default_factory=lambda: ["none", "TRLearner(neighbors=3)"])
    meta_batch_size: int = 8
    steps: int = 3000

    def tuned(self, learner: str) -> Settings:
        if learner == "LinearProbe":
            return {"n_classes": self.distribution("train", seed=0).n_classes}
        return (OMNIGLOT_MANY_CLASSES if self.n_way > 5 else OMNIGLOT_PRESETS).get(learner, {})

    def distribution(self, split: Split, seed: int) -> Omniglot:
        settings = self.values("n_way", "k_shot", "n_query", "rotations", "scheme", "slots", "folder")
        return Omniglot(split, n_train_characters=self.n_train_characters, seed=seed, **settings)

    def network(self) -> Network:
        return conv4(self.n_way, n_filters=self.n_filters)


OMNIGLOT_RECIPES: list[Recipe] = [
    OmniglotRecipe(name="omniglot-5w1s", description="Handwritten characters, 5-way 1-shot", k_shot=1),
    OmniglotRecipe(name="omniglot-5w5s", description="Handwritten characters, 5-way 5-shot", k_shot=5),
    OmniglotRecipe(name="omniglot-20w1s", description="Handwritten characters, 20-way 1-shot", n_way=20),
]
