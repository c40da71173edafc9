"""Handwritten characters, the field's standard benchmark for few-shot classification."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from copy import copy
from typing import Any, Literal

import numpy as np
import torch

from metalens.data.base import BlockDistribution, Recent, Split
from metalens.data.catalog.omniglot_images import (
    N_CHARACTERS,
    N_DRAWERS,
    SIDE,
    Scheme,
    load_images,
    split_characters,
)
from metalens.data.checks import check_choices, check_sizes
from metalens.errors import MetaLensError
from metalens.tasks import Examples, Task

Slots = Literal["random", "fixed"]


class Omniglot(BlockDistribution):
    """Few-shot classification of handwritten characters, 28 by 28 pixels in [0, 1] with strokes at 1.

    A class is a character or, with rotations, a character turned by 0, 90, 180 or 270 degrees
    counterclockwise. A task has n_way distinct classes, and for each class k_shot support and n_query
    query drawings by distinct drawers. Examples are ordered by class slot; x is `(s, 1, 28, 28)` float32
    and y `(s,)` int64. The descriptors of a task are the shares of the `alphabets` among its classes.

    Omniglot has 1,623 characters. With an incomplete copy each split keeps the classes that are there, with
    a warning; its tasks differ from those of the full copy.

    Args:
        split: `"train"`, `"val"` or `"test"`; a character and its rotations are in one split.
        n_way: classes per task.
        k_shot: support images per class.
        n_query: query images per class, not per task.
        rotations: whether the four rotations of a character count as four classes.
        scheme: `"vinyals"`, the published lists of 1,028, 172 and 423 characters, or `"finn"`, a fixed
            random draw of 1,100, 100 and 423. The sizes are Finn's; the authors' draw depended on the order
            of files in their file system and cannot be repeated.
        slots: `"random"`, so that any class can have any label, or `"fixed"`: the classes are divided
            once into n_way groups, and label j always stands for a class of group j. A model can then
            memorize labels instead of learning from the support set.
        n_train_characters: how many characters to train on, chosen at random by the seed; `None` for all.
        seed: see `TaskDistribution`.
        folder: a folder with upstream's two zip files; `None` for the one that METALENS_DATA names, or a
            download into the cache.

    Attributes:
        n_characters: characters of the tasks.
        n_classes: classes of the tasks, 4 per character with rotations.
        alphabets: names of the alphabets of all splits.

    Raises:
        MetaLensError: a setting is out of range, or the images are missing or damaged.

    >>> task = Omniglot("test", n_way=5, k_shot=1)[0]  # doctest: +SKIP
    >>> task.support.x.shape, task.query.y.shape  # doctest: +SKIP
    (torch.Size([5, 1, 28, 28]), torch.Size([75]))

    Source: B. Lake, R. Salakhutdinov, J. Tenenbaum, "Human-level concept learning through probabilistic
    program induction", Science 350, 2015. Splits: O. Vinyals and others, "Matching Networks for One Shot
    Learning", 2016, arXiv 1606.04080, and C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning
    for Fast Adaptation of Deep Networks", 2017, arXiv 1703.03400. Fixed slots: M. Yin and others,
    "Meta-Learning without Memorization", 2020, arXiv 1912.03820.
    """

    def __init__(
        self,
        split: Split = "train",
        *,
        n_way: int = 5,
        k_shot: int = 1,
        n_query: int = 15,
        rotations: bool = True,
        scheme: Scheme = "vinyals",
        slots: Slots = "random",
        n_train_characters: int | None = None,
        seed: int = 0,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(split, seed=seed)
        check_sizes(2, n_way=n_way)
        check_sizes(k_shot=k_shot, n_query=n_query)
        check_choices(scheme=(scheme, Scheme), slots=(slots, Slots))
        if k_shot + n_query > N_DRAWERS:
            raise MetaLensError(
                f"k_shot + n_query must be at most {N_DRAWERS}, the drawings of a character, got "
                f"{k_shot} + {n_query}; both count images per class."
            )
        self.n_way, self.k_shot, self.n_query = n_way, k_shot, n_query
        self.rotations, self.scheme, self.slots = rotations, scheme, slots

        self._turns = 4 if rotations else 1
        images = load_images(folder)
        kept = np.flatnonzero(split_characters(images.numbers, images.alphabets, split, scheme))
        if len(images.numbers) < N_CHARACTERS:
            warnings.warn(
                f"Found {len(images.numbers)} of Omniglot's {N_CHARACTERS} characters; the {split} split "
                f"keeps {len(kept) * self._turns} classes.",
                stacklevel=3,
            )
        self.n_train_characters = n_train_characters
        if split == "train" and n_train_characters is not None:
            kept = self._choose(kept, n_train_characters)
        self._drawings = images.pixels.reshape(-1, SIDE, SIDE)
        self._characters = kept
        alphabets, self._alphabet_of = np.unique(images.alphabets, return_inverse=True)
        self.alphabets = alphabets.tolist()
        self.n_characters = len(kept)
        self.n_classes = self.n_characters * self._turns

        if n_way > self.n_classes:
            most = f"{self.n_classes}, the number of classes of the {split} split"
            raise MetaLensError(f"n_way must be at most {most}, got {n_way}.")
        shuffled = self._generator(2, 0).permutation(self.n_classes)
        self._groups = np.array_split(shuffled, n_way)
        self._pooled = False

    def task_name(self, index: int) -> str:
        shares = self[index].descriptors
        names = [self.alphabets[number] for number in shares.argsort(descending=True) if shares[number] > 0]
        return f"{index} ({', '.join(names)})"

    def metadata(self) -> dict[str, Any]:
        return {"characters": self.n_characters, "classes": self.n_classes}

    def with_global_labels(self) -> Omniglot:
        """Return the same tasks with targets `0 ... n_classes - 1`, the classes of the whole split."""
        twin = copy(self)
        twin._pooled = True
        twin._block = Recent(twin._draw_block, 4)
        return twin

    def draw(self, rng: np.random.Generator, n: int) -> Task:
        """Draw a batch of n tasks whose x are numbers of images, `class * 20 + drawer`.

        Blocks of tasks then stay small; `batch` looks up the pixels.
        """
        classes = self._draw_classes(rng, n)[..., np.newaxis]
        of_class = self._alphabet_of[self._characters[classes // self._turns]]
        descriptors = (of_class == np.arange(len(self.alphabets))).mean(1)
        drawers = rng.permuted(np.broadcast_to(np.arange(N_DRAWERS), (n, self.n_way, N_DRAWERS)), axis=-1)
        images = classes * N_DRAWERS + drawers
        labels = classes if self._pooled else np.arange(self.n_way)[:, np.newaxis]

        def examples(x: np.ndarray) -> Examples:
            y = np.broadcast_to(labels, x.shape).reshape(n, -1).copy()
            return Examples(torch.from_numpy(x.reshape(n, -1)), torch.from_numpy(y))

        support, query, _ = np.split(images, [self.k_shot, self.k_shot + self.n_query], axis=-1)
        return Task(examples(support), examples(query), torch.from_numpy(descriptors).float())

    def batch(self, indices: Sequence[int]) -> Task:
        return super().batch(indices).map(self._with_pixels)

    def _choose(self, characters: np.ndarray, n: int) -> np.ndarray:
        if not 1 <= n <= len(characters):
            raise MetaLensError(
                f"n_train_characters must be between 1 and {len(characters)}, the characters found for the "
                f"train split, got {n}."
            )
        return np.sort(self._generator(3, 0).permutation(characters)[:n])

    def _draw_classes(self, rng: np.random.Generator, n: int) -> np.ndarray:
        if self.slots == "fixed":
            return np.stack([rng.choice(group, n) for group in self._groups], axis=1)
        n_classes = self.n_characters * self._turns
        return np.stack([rng.choice(n_classes, self.n_way, replace=False) for _ in range(n)])

    def _with_pixels(self, examples: Examples) -> Examples:
        classes, drawers = np.divmod(examples.x.numpy(), N_DRAWERS)
        characters, turns = np.divmod(classes, self._turns)
        # NumPy copies whole images where PyTorch would look up every pixel.
        x = self._drawings[self._characters[characters] * N_DRAWERS + drawers]
        for turn in range(1, self._turns):
            turned = turns == turn
            x[turned] = np.rot90(x[turned], turn, (-2, -1))
        return Examples(torch.from_numpy(x).unsqueeze(2).float().div_(255), examples.y)
