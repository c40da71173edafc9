"""How images lie in folders: which class, domain and split each is of."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, get_args

from metalens.data.base import Split
from metalens.data.images.store import SourceFile, is_image, list_files
from metalens.data.splits import SHARES, divided
from metalens.errors import MetaLensError

Splits = Sequence[float] | Mapping[str, Sequence[str]] | Split

_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"
}  # fmt: skip
_N_NAMED = 3  # names in a message


class LabeledImage(NamedTuple):
    """An image file and its labels by its folders."""

    file: SourceFile
    name: str  # of its class
    domain: str  # the folder around the class, or empty
    split: Split | None  # the folder around that, or None


def find_images(source: Path, labels: Mapping[str, str] | None = None) -> list[LabeledImage]:
    """Return the images of a directory or a zip file, sorted by path; see `ImageFolders`.

    Raises:
        MetaLensError: the source cannot be read, or its folders have another layout.
    """
    files = [file for file in list_files(source) if is_image(file.path)]
    if labels is not None:
        named = ((file, labels.get(PurePosixPath(file.path).name)) for file in files)
        return [LabeledImage(file, name, "", None) for file, name in named if name is not None]
    folders = [PurePosixPath(file.path).parts[:-1] for file in files]
    while folders and len(folders[0]) > 1 and folders[0][0] not in _SPLIT_FOLDERS:
        if len({parts[:1] for parts in folders}) > 1:
            break
        folders = [parts[1:] for parts in folders]
    says_split = all(len(parts) > 1 and parts[0] in _SPLIT_FOLDERS for parts in folders)
    images = []
    depth = len(folders[0]) if folders else 0
    for file, parts in zip(files, folders, strict=True):
        inner = parts[1:] if says_split else parts
        if len(parts) != depth or not 1 <= len(inner) <= 2:
            raise MetaLensError(
                f"{file.path} in {source} is not where images belong: class/image, domain/class/image, "
                "or either in folders train, val and test, the same for all; move or delete it."
            )
        split = _SPLIT_FOLDERS[parts[0]] if says_split else None
        images.append(LabeledImage(file, inner[-1], inner[0] if len(inner) == 2 else "", split))
    return images


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


def some(names: Sequence[str]) -> str:
    """Return the first few of many names.

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
    return ", ".join(names[:_N_NAMED]) + more
