"""Your own images: class folders, zip files and single files."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Self, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metalens.data import ImageFolders
from metalens.data.base import Split
from metalens.data.images.layout import Folders, LabeledImage, Splits, find_images, split_classes
from metalens.data.images.store import SourceFile, list_images, load_images, stamp_of
from metalens.errors import MetaLensError
from metalens.estimators.episodes import Sizes, episode_sizes
from metalens.io.json import is_of
from metalens.networks import Network, conv4
from metalens.networks.backbone import Backbone

N_FILTERS = 32  # of the convolutional network: half of the usual number, for CPUs

_TYPES = {
    "image_size": int,
    "color": bool,
    "group": (str, NoneType),
    "folders": (str, NoneType),
    "white": (int, float, NoneType),
}

Images = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class ImageReader:
    """Encoding of image files as inputs, with pixels in [-1, 1]; see `ImageFolders` for the settings."""

    kind: ClassVar[str] = "images"

    image_size: int
    color: bool
    group: str | None = None
    folders: Folders | None = None
    white: float | None = None

    @property
    def input_names(self) -> tuple[str, ...]:
        """Empty, as images have no columns."""
        return ()

    def inputs(self, images: Images) -> Tensor:
        """Return the images of a folder or a zip file, in the order of their paths, or of files as inputs.

        Raises:
            MetaLensError: there are no images, or some cannot be read.
        """
        if isinstance(images, str | os.PathLike):
            return self._load(_path(images), self.files(images))
        paths = [_path(path) for path in images]
        if not paths:
            raise MetaLensError("There are no images to predict for; give at least one path.")
        return torch.cat([self._load(path.parent, [_file(path)]) for path in paths])

    def files(self, source: str | os.PathLike[str]) -> list[SourceFile]:
        """Return the images of a folder or a zip file, in the order of their paths.

        Raises:
            MetaLensError: there are none.
        """
        files = list_images(_path(source))
        if not files:
            raise MetaLensError(f"{source} has no images; give a folder or a zip file with some.")
        return files

    def support(self, source: str | os.PathLike[str]) -> tuple[Tensor, pd.Series, None]:
        """Return the images of class folders as inputs, the names of their classes, and no name of a task."""
        folder = _path(source)
        images = _labeled(folder, self.folders)
        names = pd.Series([image.name for image in images])
        return self._load(folder, [image.file for image in images]), names, None

    def tasks(
        self, source: str | os.PathLike[str], split: Split, splits: Splits | None, sizes: Sizes, seed: int
    ) -> ImageFolders:
        """Return episodes of the classes of a split."""
        settings: dict[str, Any] = sizes._asdict() | asdict(self)
        return ImageFolders(source, split, splits=splits, seed=seed, **settings)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the reader with the values of `asdict`."""
        if not is_of(values, _TYPES):
            raise ValueError("its settings of images are not as expected")
        return cls(**values)

    def _load(self, source: Path, files: Sequence[SourceFile]) -> Tensor:
        settings: Any = {"side": self.image_size, "color": self.color, "white": self.white}
        pixels = load_images(source, files, check_depth=False, **settings).pixels  # training has checked
        return torch.from_numpy(np.asarray(pixels).astype(np.float32)).div_(255).mul_(2).sub_(1)


def class_counts(
    source: str | os.PathLike[str], splits: Splits | None, folders: Folders | None
) -> dict[Split, dict[str, list[int]]]:
    """Return the numbers of images of the classes of each split, by domain."""
    images = _labeled(_path(source), folders)
    split_of = split_classes(images, splits)
    domains = {image.domain for image in images}
    counts: dict[Split, dict[str, list[int]]] = {
        split: {domain: [] for domain in domains} for split in get_args(Split)
    }
    for (domain, name), n in Counter((image.domain, image.name) for image in images).items():
        if name in split_of:
            counts[split_of[name]][domain].append(n)
    return counts


def image_tasks(
    source: Any,
    reader: ImageReader,
    splits: Any,
    n_way: int | None,
    k_shot: int | None,
    n_query: int | None,
    seed: int,
) -> tuple[dict[Split, ImageFolders], Sizes]:
    """Return episodes of the classes of each split, and their sizes; see `episode_sizes`.

    Raises:
        MetaLensError: the source is no path, or has too few classes or images.
    """
    if not isinstance(source, str | os.PathLike):
        raise MetaLensError("target must name the column with the classes of a table, got none.")
    counts = class_counts(source, splits, reader.folders)
    sizes = episode_sizes(counts, n_way, k_shot, n_query)
    return {split: reader.tasks(source, split, splits, sizes, seed) for split in counts}, sizes


def new_image_sizes(source: Any, reader: ImageReader, sizes: Sizes) -> Sizes:
    """Return the sizes of episodes of new images, which may have fewer classes."""
    counts = class_counts(source, "test", reader.folders)["test"]
    return sizes._replace(n_way=min(sizes.n_way, max(map(len, counts.values()))))


def image_network(reader: ImageReader, n_way: int, backbone: Backbone | None) -> Network:
    """Return a new network for images, by default one that normalizes each by itself."""
    channels = 3 if reader.color else 1
    if backbone is not None:
        return backbone.network(n_way, channels, reader.image_size)
    return conv4(n_way, n_filters=N_FILTERS, in_channels=channels, image_size=reader.image_size, norm="group")


def _labeled(source: Path, folders: Folders | None) -> list[LabeledImage]:
    images = find_images(source, folders=folders)
    if not images:
        raise MetaLensError(f"{source} has no images; it must hold class folders with image files.")
    return images


def _path(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise MetaLensError(
            f"Images must be given by the path of a folder, a zip file or files, got {type(path).__name__}."
        )
    return Path(path).expanduser()


def _file(path: Path) -> SourceFile:
    if not path.is_file():
        raise MetaLensError(f"There is no image {path}; correct the path.")
    return stamp_of(path)
