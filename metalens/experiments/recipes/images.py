"""Recipes for classifying images from one or five examples, in one domain or several."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from metalens.data import ImageFolders, MultiDomain, Split, TaskDistribution
from metalens.data.catalog.datasets import image_dataset
from metalens.errors import MetaLensError
from metalens.experiments.recipe import Recipe, Settings
from metalens.networks import Network, conv4
from metalens.networks.backbone import Backbone
from metalens.specs.defaults import IMAGE_PRESETS, Presets


@dataclass(frozen=True, kw_only=True)
class ImagesRecipe(Recipe):
    """Color images with Conv4 and batch statistics of the set at hand, or with a backbone of timm.

    Args:
        n_way: classes per task.
        n_filters: channels of every block of Conv4.
        image_size: height and width of the images, in pixels.
        folder: folder with the data sets; by default METALENS_DATA, then the cache.
        backbone: model of timm in place of Conv4, such as resnet18.
        weights: file of its pretrained weights, whose normalization statistics are kept.
        weights_sha256: hash of this file, which a resumed run compares; found by itself.
    """

    n_way: int = 5
    n_filters: int = 32
    image_size: int = 32
    folder: str | None = None
    backbone: str | None = None
    weights: str | None = None
    weights_sha256: str | None = None
    learner: list[str] = field(
        default_factory=lambda: ["MAML", "ProtoNet", "NearestCentroid", "LogisticRegression"]
    )
    regularizers: list[str] = field(default_factory=lambda: ["none", "TRLearner(neighbors=3)"])
    k_shot: int = 1
    n_query: int = 10
    meta_batch_size: int = 4
    steps: int = 3000

    presets: ClassVar[Presets] = IMAGE_PRESETS

    def __post_init__(self) -> None:
        super().__post_init__()
        if (backbone := self._backbone) is not None:
            object.__setattr__(self, "weights_sha256", backbone.sha256)

    def tuned(self, learner: str) -> Settings:
        if learner == "LinearProbe":
            return {"n_classes": self.distribution("train", seed=0).n_classes}
        return super().tuned(learner)

    @property
    def _backbone(self) -> Backbone | None:
        return Backbone.of(self.backbone, self.weights, self.weights_sha256)

    def network(self) -> Network:
        if (backbone := self._backbone) is not None:
            return backbone.network(self.n_way, 3, self.image_size)
        return conv4(self.n_way, n_filters=self.n_filters, in_channels=3, image_size=self.image_size)

    def saved_network(self) -> Network:
        if (backbone := self._backbone) is not None:
            return replace(backbone, is_saved=True).network(self.n_way, 3, self.image_size)
        return self.network()

    def tasks(self, dataset: str, split: Split, seed: int, *, entire: bool = False) -> ImageFolders:
        """Return the tasks of a data set: those of a split as published, or of all its classes."""
        settings = self.values("n_way", "k_shot", "n_query", "image_size", "folder")
        return image_dataset(dataset).tasks(split, splits=split if entire else None, seed=seed, **settings)


@dataclass(frozen=True, kw_only=True)
class ImageRecipe(ImagesRecipe):
    """Color images of one data set with Conv4 and batch statistics of the set at hand.

    Args:
        dataset: its name, see metalens data list.
    """

    dataset: str = "cifarfs"

    def distribution(self, split: Split, seed: int) -> TaskDistribution:
        return self.tasks(self.dataset, split, seed)


@dataclass(frozen=True, kw_only=True)
class DomainsRecipe(ImagesRecipe):
    """Color images of several data sets, each one a domain, with Conv4 and batch statistics of the set.

    Training and validation take the domains of training in turn. Of unseen ones all classes are for testing.

    Args:
        domains: data sets to train on, see metalens data list.
        unseen: data sets to test on that are not trained on.
        test_seen: whether held-out classes of the domains of training are tested on, too.
    """

    domains: list[str] = field(default_factory=lambda: ["tinyimagenet"])
    unseen: list[str] = field(default_factory=lambda: ["cifarfs", "gtsrb", "pacs"])
    test_seen: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.domains or not (self.unseen or self.test_seen):
            raise MetaLensError("domains must name at least one to train on, and unseen one to test on.")
        names = [*self.domains, *self.unseen]
        if len(set(names)) < len(names):
            raise MetaLensError(f"domains and unseen must name each data set once, got {', '.join(names)}.")

    def distribution(self, split: Split, seed: int) -> TaskDistribution:
        if split != "test":
            domains = {name: self.tasks(name, split, seed) for name in self.domains}
            return MultiDomain(domains) if len(domains) > 1 else domains[self.domains[0]]
        seen = {name: self.tasks(name, "test", seed) for name in self.domains if self.test_seen}
        unseen = {name: self.tasks(name, "test", seed, entire=True) for name in self.unseen}
        return MultiDomain(seen | unseen, unseen=self.unseen)


def _few_shot(dataset: str, title: str, k_shot: int, image_size: int) -> ImageRecipe:
    return ImageRecipe(
        name=f"{dataset}-5w{k_shot}s",
        description=f"{title}, 5-way {k_shot}-shot",
        dataset=dataset,
        k_shot=k_shot,
        image_size=image_size,
    )


# fmt: off
IMAGE_RECIPES: list[Recipe] = [
    _few_shot("cifarfs", "Small photographs (CIFAR-FS)", 1, 32),
    _few_shot("cifarfs", "Small photographs (CIFAR-FS)", 5, 32),
    _few_shot("tinyimagenet", "Photographs (Tiny-ImageNet)", 1, 64),
    _few_shot("tinyimagenet", "Photographs (Tiny-ImageNet)", 5, 64),
    DomainsRecipe(
        name="cross-domain",
        description="Train on Tiny-ImageNet, test on CIFAR-FS, traffic signs and PACS, 5-way 5-shot",
        test_seen=False, k_shot=5,
    ),
    DomainsRecipe(
        name="multi-domain",
        description="Train on Tiny-ImageNet and CIFAR-FS, test on both, traffic signs and PACS, 5-way 5-shot",
        domains=["tinyimagenet", "cifarfs"], unseen=["gtsrb", "pacs"], k_shot=5,
    ),
]
