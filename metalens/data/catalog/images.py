"""Image data sets in the formats and with the splits that were published."""

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, get_args

from metalens.data import ImageFolders, Split
from metalens.data.catalog import cifar100
from metalens.data.catalog.base import DataSet
from metalens.data.images.folders import Normalize
from metalens.data.images.layout import Splits, find_images, split_classes
from metalens.data.images.store import list_files, reading, some
from metalens.data.splits import hashed_order
from metalens.errors import MetaLensError

_N_VAL = 12  # validation classes of an incomplete copy of CIFAR-FS


class Arrangement(NamedTuple):
    """How to read the files of a data set: settings of `ImageFolders`, and a remark for its metadata."""

    splits: Splits | None = None
    labels: Mapping[str, str] | None = None
    superclasses: Mapping[str, str] | None = None
    remark: str = ""


Arrange = Callable[[Path], Arrangement]


@dataclass(frozen=True, kw_only=True)
class ImageDataSet(DataSet):
    """Images by class.

    Args:
        arrange: from the path of the data set to how its files are read.
        image_size: default height and width in pixels.
        group: see `ImageFolders`.
        max_images: see `ImageFolders`.
        published: numbers of classes of the published splits, to report incomplete copies.
        download: into the cache; `None` without a stable address with a checksum.
    """

    arrange: Arrange
    image_size: int
    group: str | None = None
    max_images: int | None = None
    published: tuple[int, int, int] | None = None
    download: Callable[[], Path] | None = None
    folder: str = "images"

    def tasks(
        self,
        split: Split = "train",
        *,
        n_way: int = 5,
        k_shot: int = 1,
        n_query: int = 15,
        image_size: int | None = None,
        color: bool = True,
        normalize: Normalize = "symmetric",
        splits: Splits | None = None,
        seed: int = 0,
        folder: str | os.PathLike[str] | None = None,
    ) -> ImageFolders:
        """Return few-shot tasks of the data set in its published splits; see `ImageFolders`.

        Args:
            image_size: height and width in pixels; `None` for the usual one of this data set.
            splits: other splits than the published ones, see `ImageFolders`.
            folder: where to look for the data set, see `find`.

        Raises:
            MetaLensError: the data set is missing, damaged, or lacks the classes for the tasks.
        """
        source = self.require(folder)
        arrangement = self.arrange(source)
        if splits is not None:
            arrangement = arrangement._replace(splits=splits, remark="")
        return ImageFolders(source, split, n_way=n_way, k_shot=k_shot, n_query=n_query,
                            image_size=image_size or self.image_size, color=color, normalize=normalize,
                            group=self.group, folders="domain/class", max_images=self.max_images, seed=seed,
                            **arrangement._asdict())  # fmt: skip

    def check(self, folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
        source = self.require(folder)
        arrangement = self.arrange(source)
        _check_listed(source, arrangement.labels)
        split_of = split_classes(find_images(source, arrangement.labels, "domain/class"), arrangement.splits)
        facts: dict[str, Any] = {}
        for place, split in enumerate(get_args(Split)):
            facts[split] = {"classes": 0}
            if split in split_of.values():
                facts[split] = self.tasks(split, n_way=2, n_query=1, folder=folder).metadata()
                facts[split].pop("remark", None)
            if self.published is not None:
                facts[split]["published_classes"] = self.published[place]
        return facts | ({"remark": arrangement.remark} if arrangement.remark else {})

    def fetch(self) -> Path:
        return super().fetch() if self.download is None else self.download()


def alternating(source: Path) -> Arrangement:
    """Put classes, sorted by name, in turn into train, val, train, test.

    Source: W.-Y. Chen and others, "A Closer Look at Few-shot Classification", 2019, arXiv 1904.04232 (CUB);
    H.-Y. Tseng and others, "Cross-Domain Few-Shot Classification via Learned Feature-Wise Transformation",
    2020, arXiv 2001.08735 (Places).
    """
    names = sorted({image.name for image in find_images(source, folders="domain/class")})
    return Arrangement(splits={"train": names[::2], "val": names[1::4], "test": names[3::4]})


def cifar_fs(source: Path) -> Arrangement:
    """Read the published splits from folders or lists; a copy without test classes gets other ones.

    Source: L. Bertinetto and others, "Meta-learning with differentiable closed-form solvers", 2019, arXiv
    1805.08136.
    """
    images, splits = find_images(source, folders="domain/class"), get_args(Split)
    found = {split: sorted({image.name for image in images if image.split == split}) for split in splits}
    if not any(found.values()):
        return Arrangement(cifar100.CIFAR_FS, superclasses=cifar100.SUPERCLASS_OF)
    if found["test"]:
        return Arrangement(superclasses=cifar100.SUPERCLASS_OF)
    order = hashed_order(found["train"])
    return Arrangement(
        {"train": order[_N_VAL:], "val": order[:_N_VAL], "test": found["val"]},
        superclasses=cifar100.SUPERCLASS_OF,
        remark=f"This copy lacks the published test classes: testing is on the {len(found['val'])} published "
        f"validation classes, and validation on {_N_VAL} of the {len(order)} published training classes.",
    )


def fc100(source: Path) -> Arrangement:
    """Divide the classes of CIFAR-100 by superclass.

    Source: B. Oreshkin, P. Rodríguez, A. Lacoste, "TADAM: Task dependent adaptive metric for improved
    few-shot learning", 2018, arXiv 1805.10123.
    """
    return Arrangement(cifar100.FC100, superclasses=cifar100.SUPERCLASS_OF)


def mini_imagenet(source: Path) -> Arrangement:
    """Read the lists `train.csv`, `val.csv` and `test.csv`, with the columns filename and label.

    Source: S. Ravi, H. Larochelle, "Optimization as a Model for Few-Shot Learning", ICLR 2017.
    """
    labels, splits = {}, {}
    for split, rows in _lists(source).items():
        if rows[:1] != [["filename", "label"]]:
            raise MetaLensError(f"{split}.csv in {source} must begin with filename,label; get it again.")
        labels |= dict(rows[1:])
        splits[split] = sorted({label for _, label in rows[1:]})
    return Arrangement(splits, labels)


def tiered_imagenet(source: Path) -> Arrangement:
    """Read the lists `train.csv`, `val.csv` and `test.csv` of classes and their categories.

    Source: M. Ren and others, "Meta-Learning for Semi-Supervised Few-Shot Classification", 2018, arXiv
    1803.00676.
    """
    lists = _lists(source)
    splits = {split: [name for name, _ in rows] for split, rows in lists.items()}
    return Arrangement(splits, superclasses={name: above for rows in lists.values() for name, above in rows})


def meta_dataset(source: Path) -> Arrangement:
    """Read the one file `*_splits.json` with the classes of train, valid and test.

    Source: E. Triantafillou and others, "Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few
    Examples", 2020, arXiv 1903.03096.
    """
    found = [file.path for file in list_files(source) if file.path.endswith("_splits.json")]
    if len(found) != 1:
        raise MetaLensError(f"{source} must hold one file *_splits.json of Meta-Dataset, got {len(found)}.")
    with reading(source) as read:
        try:
            lists = json.loads(read(found[0]))
            parts = {"train": lists["train"], "val": lists["valid"], "test": lists["test"]}
            # No folder can have a slash in its name, as the aircraft F/A-18 does.
            return Arrangement({part: [name.replace("/", "_") for name in of] for part, of in parts.items()})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise MetaLensError(
                f"{found[0]} in {source} must list the classes of train, valid and test; get it again."
            ) from error


def _check_listed(source: Path, labels: Mapping[str, str] | None) -> None:
    """Raise `MetaLensError` if the source lacks images that the published lists name."""
    there = {PurePosixPath(file.path).name for file in list_files(source)}
    if missing := sorted((labels or {}).keys() - there):
        raise MetaLensError(
            f"{source} lacks {len(missing):,} of the {len(labels or {}):,} images that its lists name: "
            f"{some(missing)}; put them into it."
        )


def _lists(source: Path) -> dict[str, list[list[str]]]:
    """Return the rows of `train.csv`, `val.csv` and `test.csv`, of two columns."""
    paths = {PurePosixPath(file.path).name: file.path for file in list_files(source)}
    if missing := [f"{split}.csv" for split in get_args(Split) if f"{split}.csv" not in paths]:
        raise MetaLensError(f"{source} lacks the published lists {', '.join(missing)}; put them into it.")
    lists = {}
    with reading(source) as read:
        for split in get_args(Split):
            try:
                text = read(paths[f"{split}.csv"]).decode()
            except UnicodeDecodeError as error:
                raise MetaLensError(f"{split}.csv in {source} is not UTF-8 text; get it again.") from error
            lists[split] = [row for row in csv.reader(text.splitlines()) if row]
            if not lists[split] or any(len(row) != 2 for row in lists[split]):
                raise MetaLensError(f"{split}.csv in {source} must have two columns; get it again.")
    return lists


def _meta_dataset(name: str, what: str, images: str) -> ImageDataSet:
    return ImageDataSet(
        name=f"metadataset-{name}",
        description=f"{what}, with the classes of Meta-Dataset",
        license="that of the images' own publishers",
        source="https://github.com/google-research/meta-dataset",
        steps=f"put {name}_splits.json of the folder meta_dataset/dataset_conversion/splits into a folder "
        f"{name}, and the {images} into the folders {name}/CLASS/ that it names, with _ for / in a name",
        files=(name, f"{name}.zip"),
        arrange=meta_dataset,
        image_size=84,
    )


IMAGE_DATASETS: Sequence[ImageDataSet] = (
    ImageDataSet(
        name="cifarfs",
        description="CIFAR-FS: small photographs of 100 classes, 32 by 32 pixels",
        license="that of CIFAR-100: cite A. Krizhevsky, 2009",
        source="https://github.com/bertinetto/r2d2",
        steps="unpack the authors' copy to a folder cifar100",
        files=("cifar_fs.zip", "cifar_fs", "cifar100.zip", "cifar100"),
        arrange=cifar_fs,
        image_size=32,
        published=(64, 16, 20),
        download=cifar100.fetch,
    ),
    ImageDataSet(
        name="fc100",
        description="FC100: the classes of CIFAR-100 divided by superclass",
        license="that of CIFAR-100: cite A. Krizhevsky, 2009",
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        steps="make the class folders cifar100/CLASS/ of all its images",
        files=("cifar100.zip", "cifar100"),
        arrange=fc100,
        image_size=32,
        published=(60, 20, 20),
        download=cifar100.fetch,
    ),
    ImageDataSet(
        name="tinyimagenet",
        description="Tiny-ImageNet in few-shot splits: photographs, 64 by 64 pixels",
        license="for non-commercial research",
        source="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        steps="put its images into tinyimagenet_fs/{train,val,test}/CLASS/, each class into one of the three",
        files=("tinyimagenet_fs.zip", "tinyimagenet_fs"),
        arrange=lambda _: Arrangement(),
        image_size=64,
    ),
    ImageDataSet(
        name="miniimagenet",
        description="miniImagenet in the splits of Ravi: photographs of 100 classes",
        license="that of ImageNet: for non-commercial research",
        source="https://github.com/twitter/meta-learning-lstm",
        steps="put train.csv, val.csv and test.csv of the folder data/miniImagenet into a folder "
        "miniimagenet, and the images that they list into miniimagenet/images",
        files=("miniimagenet", "miniimagenet.zip", "mini-imagenet", "mini-imagenet.zip"),
        arrange=mini_imagenet,
        image_size=84,
        published=(64, 16, 20),
    ),
    ImageDataSet(
        name="tieredimagenet",
        description="tieredImagenet: photographs of 608 classes in 34 categories, divided by category",
        license="that of ImageNet: for non-commercial research",
        source="https://github.com/renmengye/few-shot-ssl-public",
        steps="put train.csv, val.csv and test.csv of the folder fewshot/data/tiered_imagenet_split into a "
        "folder tieredimagenet, and the class folders of ImageNet (ILSVRC 2012, train) that they list too",
        files=("tieredimagenet", "tieredimagenet.zip"),
        arrange=tiered_imagenet,
        image_size=84,
        published=(351, 97, 160),
    ),
    ImageDataSet(
        name="cub",
        description="CUB-200-2011: birds of 200 species",
        license="for non-commercial research",
        source="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        steps="unpack CUB_200_2011.tgz",
        files=("CUB_200_2011/images", "CUB_200_2011"),
        arrange=alternating,
        image_size=84,
        published=(100, 50, 50),
    ),
    ImageDataSet(
        name="places",
        description="Places365: 200 scenes of each of 365 kinds",
        license="for non-commercial research",
        source="http://places2.csail.mit.edu/download.html",
        steps="unpack places365standard_easyformat.tar, which gives places365_standard/train",
        files=(
            "places365_standard/train",
            "places365standard_easyformat/places365_standard/train",
            "places365standard_easyformat/train",
        ),
        arrange=alternating,
        image_size=84,
        max_images=200,
        published=(183, 91, 91),
    ),
    ImageDataSet(
        name="gtsrb",
        description="Traffic signs in tracks of frames; all classes are for testing",
        license="for research",
        source="https://benchmark.ini.rub.de/gtsrb_dataset.html",
        steps="unpack the training images (GTSRB_Final_Training_Images.zip)",
        files=("gtsrb.zip", "gtsrb", "GTSRB/Final_Training/Images", "GTSRB_Final_Training_Images.zip"),
        arrange=lambda _: Arrangement(splits="test"),
        image_size=32,
        group=r"([^/]+)_[^/_]+$",
        published=(0, 0, 43),
    ),
    ImageDataSet(
        name="pacs",
        description="PACS: 7 objects as art painting, cartoon, photo and sketch; all are for testing",
        license="for research",
        source="https://domaingeneralization.github.io/",
        steps="put its images into folders pacs/DOMAIN/OBJECT/",
        files=("pacs.zip", "pacs", "PACS"),
        arrange=lambda _: Arrangement(splits="test"),
        image_size=84,
        published=(0, 0, 28),
    ),
    _meta_dataset("aircraft", "Aircraft", "images of FGVC-Aircraft, cut to their boxes"),
    _meta_dataset("cu_birds", "Birds", "images of CUB-200-2011"),
    _meta_dataset("dtd", "Textures", "images of the Describable Textures Dataset"),
    _meta_dataset("fungi", "Fungi", "images of FGVCx Fungi"),
    _meta_dataset("mscoco", "Objects", "objects of MSCOCO (2017, train), cut out"),
    _meta_dataset("quickdraw", "Drawings", "bitmaps of Quick, Draw!, as image files"),
    _meta_dataset("vgg_flower", "Flowers", "images of VGG Flower"),
)
