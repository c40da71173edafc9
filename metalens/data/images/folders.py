"""Few-shot classification of images that lie in folders by class."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from metalens.data.base import BatchedTasks, Split
from metalens.data.checks import check_sizes
from metalens.data.images.layout import (
    Folders,
    LabeledImage,
    Labels,
    Splits,
    find_images,
    first_of_classes,
    split_classes,
)
from metalens.data.images.store import load_images, some
from metalens.data.support_query import can_divide, divide_units
from metalens.errors import MetaLensError
from metalens.tasks import Examples, Task

Normalize = Literal["symmetric", "unit", "imagenet"]
Group = str | Callable[[str], str]

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageClass(NamedTuple):
    """A class of a split."""

    name: str
    domain: str  # or empty
    images: np.ndarray  # (n,) numbers
    groups: np.ndarray  # (n,) of the images, numbered from 0


class ImageFolders(BatchedTasks):
    """Few-shot classification of images from class folders, in a directory or a zip file.

    The folders are `class/image`, `{train,val,test}/class/image`, `domain/class/image` or
    `{train,val,test}/domain/class/image`, below any common folders, or `class/group/image`. Images are of any
    format that Pillow reads, resized regardless of proportions, rotated by their EXIF orientation, and white
    where transparent; of several frames the first counts. They are decoded once into the cache, and mapped
    into memory from there.

    A task has n_way distinct classes, all of one domain, and for each class k_shot support and n_query query
    images. Examples are ordered by class slot; x is `(s, channels, image_size, image_size)` float32 and y
    `(s,)` int64. The descriptors of a task are the shares of superclasses among its classes or, without
    these, of domains.

    Nothing leaks: a class is in one split, whatever its domain; support and query of a class share no group;
    and of images that are equal pixel by pixel, one is kept if they are of one class and none if they are of
    several, with a warning.

    Args:
        source: a directory or a zip file, which is read and never unpacked.
        split: `"train"`, `"val"` or `"test"`.
        n_way: classes per task.
        k_shot: support images per class.
        n_query: query images per class, not per task.
        image_size: height and width in pixels.
        color: whether x has three channels, or one of grey.
        splits: `None`: by the folders or, without split folders, by the shares 0.7, 0.15 and 0.15. Three
            shares: classes are divided by `hashed_order` of their names, whatever the seed and the folders.
            A mapping from split to names of classes: other classes are left out. The name of a split: all
            classes are in it.
        group: images of a class that belong together, such as frames of one track: a regular expression,
            whose first group (or match) in the path of an image is its group, or a function of that path.
        labels: the class of an image by its file name, instead of by its folder: a mapping, a regular
            expression, whose first group (or match) in the name is the class, or a function; others are left
            out, with a warning.
        folders: `"domain/class"` or `"class/group"`, where folders have two levels. In the latter the second
            folder names the group, such as a patient, and deeper ones belong to it. `None`: domain/class,
            with a warning that says so.
        domains: the domains to use, in the order of the descriptors; `None` for all.
        superclasses: the superclass of every class by name, for the descriptors.
        white: the value of white in images of more than 8 bits, see `load_images`.
        normalize: `"symmetric"`: x in [-1, 1]; `"unit"`: in [0, 1]; `"imagenet"`: by the mean and deviation
            of ImageNet's channels, as pretrained networks expect. All are constants: nothing is fitted.
        max_images: maximum of images per class, the first by path; `None` for all.
        remark: added to `metadata`.
        seed: see `TaskDistribution`.

    Attributes:
        classes: the classes of the tasks of the split.
        class_names: their names, with the domain in front if there are several.
        n_classes: their number.
        descriptor_names: of the superclasses or domains.

    Raises:
        MetaLensError: the source is missing, has no images or another layout; images are damaged; a class is
            in two splits; too few classes have enough images and groups; or a setting is out of range.

    >>> tasks = ImageFolders("birds.zip", "test", n_way=5, k_shot=1)  # doctest: +SKIP
    >>> tasks[0].support.x.shape, tasks.task_classes(0)  # doctest: +SKIP
    (torch.Size([5, 3, 64, 64]), ('robin', 'wren', 'jay', 'crow', 'kite'))
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        split: Split = "train",
        *,
        n_way: int = 5,
        k_shot: int = 1,
        n_query: int = 15,
        image_size: int = 64,
        color: bool = True,
        splits: Splits | None = None,
        group: Group | None = None,
        labels: Labels | None = None,
        folders: Folders | None = None,
        domains: Sequence[str] | None = None,
        superclasses: Mapping[str, str] | None = None,
        white: float | None = None,
        normalize: Normalize = "symmetric",
        max_images: int | None = None,
        remark: str = "",
        seed: int = 0,
    ) -> None:
        super().__init__(split, seed=seed)
        check_sizes(2, n_way=n_way)
        check_sizes(k_shot=k_shot, n_query=n_query, image_size=image_size, max_images=max_images)
        if normalize not in get_args(Normalize) or (normalize == "imagenet" and not color):
            raise MetaLensError(
                f"normalize must be one of {', '.join(get_args(Normalize))}, the last for color images only, "
                f"got {normalize!r} and color={color}."
            )
        self.path = Path(source).expanduser()
        self.n_way, self.k_shot, self.n_query = n_way, k_shot, n_query
        self.normalize: Normalize = normalize
        self.remark = remark

        found = find_images(self.path, labels, folders)
        images = [image for image in found if domains is None or image.domain in domains]
        if not images:
            which = f"images of the domains {', '.join(domains)}" if domains else "images"
            raise MetaLensError(f"{self.path} has no {which}; it must hold class folders with image files.")
        images = first_of_classes(images, max_images)
        split_of = split_classes(images, splits)
        files = [image.file for image in images]
        self._pixels, digests = load_images(self.path, files, side=image_size, color=color, white=white)
        kept = self._without_copies(images, digests)
        everything = [number for number, image in enumerate(images) if split_of.get(image.name) == split]
        of_split = [number for number in everything if number in kept]
        self._n_copies = len(everything) - len(of_split)
        self.classes = self._of_large_domains(self._large_enough(self._classes(images, of_split, group)))
        numbers: dict[str, list[int]] = defaultdict(list)
        for number, of in enumerate(self.classes):
            numbers[of.domain].append(number)
        self._pools = [np.array(of_domain) for of_domain in numbers.values()]
        several = len({image.domain for image in images}) > 1
        self.class_names = tuple(f"{of.domain}/{of.name}" if several else of.name for of in self.classes)
        self.n_classes = len(self.classes)
        self._set_descriptors(images, domains, superclasses)
        self._pooled = False

    def task_classes(self, index: int) -> tuple[str, ...]:
        """Return the names of the classes of a task in the order of the labels."""
        return tuple(self.classes[number].name for number in self._draw(index)[0])

    def task_name(self, index: int) -> str:
        return f"{index} ({', '.join(self.task_classes(index))})"

    def metadata(self) -> dict[str, Any]:
        n_images = sum(len(of.images) for of in self.classes)
        facts: dict[str, Any] = {"classes": self.n_classes, "images": n_images}
        if self._n_copies:
            facts["copies_left_out"] = self._n_copies
        domains = Counter(of.domain for of in self.classes)
        if len(domains) > 1:
            facts["classes_by_domain"] = dict(domains)
        return facts | ({"remark": self.remark} if self.remark else {})

    def with_global_labels(self) -> ImageFolders:
        """Return the same tasks with targets `0 ... n_classes - 1`, the classes of the whole split."""
        twin = copy(self)
        twin._pooled = True
        return twin

    def _make_batch(self, numbers: list[int]) -> Task:
        drawn = [self._draw(number) for number in numbers]
        classes = np.stack([numbers for numbers, _ in drawn])
        images = np.stack([of_task for _, of_task in drawn])  # (T, n_way, k_shot + n_query)
        labels = classes if self._pooled else np.broadcast_to(np.arange(self.n_way), classes.shape)
        parts = np.split(images, [self.k_shot], axis=-1)
        support, query = (self._examples(part, labels) for part in parts)
        if not self.descriptor_names:
            return Task(support, query).as_batch()
        is_of = self._descriptor_of[classes][..., np.newaxis] == np.arange(len(self.descriptor_names))
        return Task(support, query, torch.from_numpy(is_of.mean(1)).float())

    def _examples(self, images: np.ndarray, labels: np.ndarray) -> Examples:
        n = len(images)
        x = torch.from_numpy(np.asarray(self._pixels[images.reshape(n, -1)])).float().div_(255)
        if self.normalize == "symmetric":
            x = x.mul_(2).sub_(1)
        elif self.normalize == "imagenet":
            mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in _IMAGENET)
            x = x.sub_(mean).div_(deviation)
        y = np.repeat(labels, images.shape[-1], axis=1)
        return Examples(x, torch.from_numpy(y.astype(np.int64)))

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes of a task `(n_way,)`, and their images `(n_way, k_shot + n_query)`."""
        rng = self._generator(index)
        pool = self._pools[rng.integers(len(self._pools))]
        numbers = rng.choice(pool, self.n_way, replace=False)
        return numbers, np.stack([self._draw_images(rng, self.classes[number]) for number in numbers])

    def _draw_images(self, rng: np.random.Generator, of: ImageClass) -> np.ndarray:
        n = len(of.images)
        if len(np.unique(of.groups)) == n:
            return rng.choice(of.images, self.k_shot + self.n_query, replace=False)
        sizes = np.bincount(of.groups)
        shuffled = rng.permutation(len(sizes))
        chosen = divide_units(sizes[shuffled].tolist(), self.k_shot, self.n_query, spread=True)
        is_support = np.isin(of.groups, shuffled[chosen])
        order = rng.permutation(np.flatnonzero(is_support))
        groups = of.groups[order]
        # One image of every group in turn, for a varied support set.
        turn = [np.sum(groups[:place] == group) for place, group in enumerate(groups)]
        support = of.images[order[np.argsort(turn, kind="stable")]][: self.k_shot]
        query = rng.choice(of.images[~is_support], self.n_query, replace=False)
        return np.concatenate([support, query])

    def _without_copies(self, images: Sequence[LabeledImage], digests: np.ndarray) -> set[int]:
        """Return the images to keep: of equal ones the first, or none if classes differ."""
        _, inverse, counts = np.unique(digests, return_inverse=True, return_counts=True)
        left_out: set[int] = set()
        for which in np.flatnonzero(counts > 1):
            same = np.flatnonzero(inverse == which).tolist()
            of_one_class = len({images[number].name for number in same}) == 1
            left_out.update(same[1:] if of_one_class else same)
        if left_out:
            warnings.warn(
                f"{len(left_out)} of the {len(images)} images in {self.path.name} are left out: they equal "
                f"others pixel by pixel (first: {images[min(left_out)].file.path}).",
                stacklevel=3,
            )
        return set(range(len(images))) - left_out

    def _classes(
        self, images: Sequence[LabeledImage], numbers: Sequence[int], group: Group | None
    ) -> list[ImageClass]:
        members: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number in numbers:
            members[images[number].domain, images[number].name].append(number)
        classes = []
        for (domain, name), of_class in sorted(members.items()):
            groups: Sequence[Any] = [images[number].group or number for number in of_class]
            if group is not None:
                groups = [_group_of(images[number].file.path, group) for number in of_class]
            _, numbered = np.unique(groups, return_inverse=True)
            classes.append(ImageClass(name, domain, np.array(of_class), numbered))
        return classes

    def _large_enough(self, classes: Sequence[ImageClass]) -> list[ImageClass]:
        kept, small = [], []
        for of in classes:
            fits = can_divide(np.bincount(of.groups).tolist(), self.k_shot, self.n_query)
            (kept if fits else small).append(of)
        if not classes:
            raise MetaLensError(
                f"{self.path.name} has no classes in its {self.split} split; take another, or give splits."
            )
        what = f"k_shot + n_query = {self.k_shot + self.n_query} images, or groups that give both sets"
        names = some([of.name for of in small])
        if len(kept) < self.n_way:
            too_small = f"; these lack {what}: {names}" if small else ""
            raise MetaLensError(
                f"The {self.split} split of {self.path.name} has {len(kept)} classes for tasks, and n_way "
                f"is {self.n_way}{too_small}; lower n_way, k_shot or n_query, or give it more."
            )
        if small:
            warnings.warn(
                f"{len(small)} of the {len(classes)} classes of the {self.split} split are left out, as they "
                f"lack {what}: {names}.",
                stacklevel=3,
            )
        return kept

    def _of_large_domains(self, classes: Sequence[ImageClass]) -> tuple[ImageClass, ...]:
        sizes = Counter(of.domain for of in classes)
        small = [domain for domain, size in sizes.items() if size < self.n_way]
        if len(small) == len(sizes):
            raise MetaLensError(
                f"No domain of {self.path.name} has n_way={self.n_way} classes in its {self.split} split; "
                "lower n_way, or give splits with more of them."
            )
        if small:
            warnings.warn(
                f"{len(small)} of the {len(sizes)} domains have fewer than n_way={self.n_way} classes in the "
                f"{self.split} split and are left out: {some(small)}.",
                stacklevel=3,
            )
        return tuple(of for of in classes if of.domain not in small)

    def _set_descriptors(
        self,
        images: Sequence[LabeledImage],
        domains: Sequence[str] | None,
        superclasses: Mapping[str, str] | None,
    ) -> None:
        self.descriptor_names: tuple[str, ...] = ()
        if superclasses is not None:
            if missing := sorted({of.name for of in self.classes} - superclasses.keys()):
                raise MetaLensError(f"superclasses lacks {some(missing)}; name that of every class.")
            self.descriptor_names = tuple(sorted(set(superclasses.values())))
            descriptors = [superclasses[of.name] for of in self.classes]
        else:
            known = list(domains or sorted({image.domain for image in images}))
            self.descriptor_names = tuple(known) if len(known) > 1 else ()
            descriptors = [of.domain for of in self.classes]
        if self.descriptor_names:
            self._descriptor_of = np.array([self.descriptor_names.index(name) for name in descriptors])


def _group_of(path: str, group: Group) -> str:
    if callable(group):
        return str(group(path))
    match = re.search(group, path)
    if match is None:
        raise MetaLensError(f"The expression {group!r} of group finds nothing in {path}; correct it.")
    return match.group(1 if match.re.groups else 0)
