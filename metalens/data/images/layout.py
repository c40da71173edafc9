"""How images lie in folders: which class, domain and split each is of."""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, get_args

from metalens.data.base import Split
from metalens.data.images.store import SourceFile, list_images, some
from metalens.data.splits import SHARES, divided
from metalens.errors import MetaLensError

Labels = Mapping[str, str] | str | Callable[[str], str | None]
Folders = Literal["domain/class", "class/group"]
Splits = Sequence[float] | Mapping[str, Sequence[str]] | Split

_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"
}  # fmt: skip


class LabeledImage(NamedTuple):
    """An image file and its labels by its folders."""

    file: SourceFile
    name: str  # of its class
    domain: str  # the folder around the class, or empty
    split: Split | None  # the folder around that, or None
    group: str = ""  # the folder within that of the class, or empty


def find_images(
    source: Path, labels: Labels | None = None, folders: Folders | None = None
) -> list[LabeledImage]:
    """Return the images of a directory or a zip file, sorted by path; see `ImageFolders`.

    Raises:
        MetaLensError: the source cannot be read, its folders have another layout, or no label fits.
    """
    if folders is not None and folders not in get_args(Folders):
        raise MetaLensError(f"folders must be one of {', '.join(get_args(Folders))}, got {folders!r}.")
    files = list_images(source)
    if labels is not None:
        return _labeled(source, files, labels)
    inner, splits = _without_common_folders([PurePosixPath(file.path).parts[:-1] for file in files])
    groups, depth = folders == "class/group", len(inner[0]) if inner else 0
    images = []
    for file, parts, split in zip(files, inner, splits, strict=True):
        if not (parts if groups else 1 <= len(parts) <= 2 and len(parts) == depth):
            raise MetaLensError(
                f"{file.path} in {source} is not where images belong: class/image, domain/class/image, "
                "or either in folders train, val and test, the same for all; move or delete it, give "
                "folders='class/group' if the first folder is the class, or labels by the names of files."
            )
        if groups:
            name, *below = parts
            images.append(LabeledImage(file, name, "", split, below[0] if below else file.path))
        else:
            *domain, name = parts
            images.append(LabeledImage(file, name, "".join(domain), split))
    if folders is None and images and images[0].domain:
        domains, classes = ({getattr(image, of) for image in images} for of in ("domain", "name"))
        warnings.warn(
            f"The folders in {source.name} are read as domain/class, {len(domains)} domains such as "
            f"{min(domains)} with {len(classes)} classes such as {min(classes)}; give folders='domain/class' "
            "if that is right, or folders='class/group' if the first folder is the class and the second one "
            "a patient or the like.",
            stacklevel=3,
        )
    return images


def _labeled(source: Path, files: Sequence[SourceFile], labels: Labels) -> list[LabeledImage]:
    """Return the images that have a label by their file names, and count the rest."""
    names = [PurePosixPath(file.path).name for file in files]
    found = [_label_of(name, labels) for name in names]
    n_without = found.count(None)
    missing = sorted(labels.keys() - set(names)) if isinstance(labels, Mapping) else []
    if n_without == len(files) and files:
        raise MetaLensError(f"labels names no file of {source}, such as {some(names)}; correct the names.")
    told = []
    if n_without:
        told.append(f"{n_without} of the {len(files)} images have no label and are left out")
    if missing:
        told.append(f"{len(missing)} files that labels names are not there: {some(missing)}")
    if told:
        warnings.warn(f"{source.name}: {'; '.join(told)}.", stacklevel=4)
    labeled = zip(files, found, strict=True)
    return [LabeledImage(file, name, "", None) for file, name in labeled if name is not None]


def _label_of(name: str, labels: Labels) -> str | None:
    if isinstance(labels, Mapping):
        return labels.get(name)
    if callable(labels):
        return labels(name)
    match = re.search(labels, name)
    return match and match.group(1 if match.re.groups else 0)


def _without_common_folders(
    folders: list[tuple[str, ...]],
) -> tuple[list[tuple[str, ...]], list[Split | None]]:
    """Return the folders of images below those around all of them, and the split that these say."""
    while folders and len(folders[0]) > 1 and folders[0][0] not in _SPLIT_FOLDERS:
        if len({parts[:1] for parts in folders}) > 1:
            break
        folders = [parts[1:] for parts in folders]
    if folders and all(len(parts) > 1 and parts[0] in _SPLIT_FOLDERS for parts in folders):
        return [parts[1:] for parts in folders], [_SPLIT_FOLDERS[parts[0]] for parts in folders]
    return folders, [None] * len(folders)


def split_classes(images: Sequence[LabeledImage], splits: Splits | None = None) -> dict[str, Split]:
    """Return the split of every class by name, without the classes that are in none; see `ImageFolders`.

    Raises:
        MetaLensError: a class is in two splits, or splits are not valid.
    """
    names = sorted({image.name for image in images})
    if splits is None and all(image.split is None for image in images):
        splits = SHARES
    if splits is None:
        listed: dict[str, set[str]] = defaultdict(set)
        for image in images:
            listed[image.split or ""].add(image.name)
        remedy = "; give splits as three shares to divide classes again"
        return _listed(listed, names, "has folders in", remedy)
    if isinstance(splits, str):
        if splits not in get_args(Split):
            raise MetaLensError(f"splits must be one of {', '.join(get_args(Split))}, got {splits!r}.")
        return dict.fromkeys(names, splits)
    if isinstance(splits, Mapping):
        return _listed(splits, names, "is listed in", "; list each class once")
    return divided(names, splits, instead="the names of the classes of train, val and test, or ")


def _listed(
    listed: Mapping[str, Sequence[str] | set[str]], names: Sequence[str], verb: str, remedy: str
) -> dict[str, Split]:
    split_of: dict[str, Split] = {}
    for key, of_split in listed.items():
        if key not in get_args(Split):
            raise MetaLensError(f"splits must name the classes of train, val and test, got {key!r}.")
        split: Split = key  # pyright: ignore[reportAssignmentType] # one of these three, as was just checked
        for name in sorted(set(of_split)):
            if name in split_of:
                raise MetaLensError(
                    f"A class must be in one split, but {name} {verb} {split_of[name]} and {split}{remedy}."
                )
            split_of[name] = split
    if missing := sorted(split_of.keys() - set(names)):
        raise MetaLensError(f"There are no images of {some(missing)}, which splits names; correct the names.")
    return split_of


def first_of_classes(images: list[LabeledImage], most: int | None) -> list[LabeledImage]:
    """Return at most the first `most` images of every class."""
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for image in images:
        seen[image.domain, image.name] += 1
        if most is None or seen[image.domain, image.name] <= most:
            kept.append(image)
    return kept
