"""From which side is this object seen? Regression of an angle from grey views."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metalens.data.arrays import ArrayTasks
from metalens.data.base import Split
from metalens.data.catalog.base import TaskDataSet
from metalens.data.npz import read_npz
from metalens.data.splits import hashed_order
from metalens.errors import MetaLensError

TURN = 10.0  # a full turn on the scale of the targets

_VAL_SHARE = 1 / 2  # of the families that the file holds back


class PoseObjects(NamedTuple):
    """Views of n objects."""

    images: np.ndarray  # (n, v, h, w) uint8, grey views
    azimuth: np.ndarray  # (n, v) directions of the camera in radians, in [0, 2 pi)
    objects: np.ndarray  # (n,) names, all different
    family: np.ndarray  # (n,) names; objects of one shape, such as cups of several colors, have one family
    asymmetry: np.ndarray  # (n,) how much views from different sides differ, 0 if they do not
    split: np.ndarray  # (n,) train, val or test; without test, see Pose


class Pose(ArrayTasks):
    """The direction from which an object is seen: one task is one object, one example one view of it.

    Inputs are grey views, `(1, 128, 128)` in [0, 1], or smaller by `shrink`; targets are azimuths on the
    scale of the published benchmark, `10 a / (2 pi)` in [0, 10). Each object has its own zero direction, so
    a new object needs its support set. Angles wrap around but the scale does not: 9.9 and 0.1 are nearly the
    same direction and count as far apart. `evaluate` therefore reports `circular_error` beside `mse`: the
    mean absolute difference of directions in degrees, 90 for random directions.

    The data are 100 views each of 68 household objects and other meshes, 50 for training; half of the
    families of the 18 others are for validation, half for testing. A family shares one shape and one split.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        k_shot: support views per task; 10 or 15 in the published benchmark.
        n_query: query views per task.
        n_train_tasks: how many objects to train on, chosen at random by the seed; `None` for all.
        min_asymmetry: objects with a lower `asymmetry` are left out: an apple looks the same from all sides.
        shrink: side in pixels of the squares that are averaged to one pixel; 1 for full views.
        seed: see `TaskDistribution`.
        folder: a folder with `pose_objects.npz`, in itself or in its folder `pose`; `None` for the one that
            METALENS_DATA names. `tools/render_poses.py` makes the file from meshes.

    Attributes:
        image_size: height and width of a view.

    Raises:
        MetaLensError: the file is missing or invalid, a family is in two splits, or a setting out of range.

    >>> Pose("test")[0].support.x.shape  # doctest: +SKIP
    torch.Size([15, 1, 128, 128])

    Source: M. Yin, G. Tucker, M. Zhou, S. Levine, C. Finn, "Meta-Learning without Memorization", 2020,
    arXiv 1912.03820, who render 65 objects of Pascal 3D, 50 to train on. Deviations: other objects, families,
    and a validation split.
    """

    extra_metrics = ()

    def __init__(
        self,
        split: Split = "train",
        *,
        k_shot: int = 15,
        n_query: int = 15,
        n_train_tasks: int | None = None,
        min_asymmetry: float = 0.0,
        shrink: int = 1,
        seed: int = 0,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        data = load_pose(folder, shrink=shrink)
        kept = data.asymmetry >= min_asymmetry
        if not kept.any():
            most = f"{data.asymmetry.max():.1f}, that of the least symmetric object"
            raise MetaLensError(f"min_asymmetry must be at most {most}, got {min_asymmetry}.")
        images, azimuth, objects, family, _, parts = (array[kept] for array in data)
        n, v = azimuth.shape
        self.image_size = images.shape[-1]
        super().__init__(
            {
                "image": images.reshape(n * v, 1, *images.shape[2:]),
                "azimuth": (azimuth.ravel() / (2 * np.pi) * TURN).astype(np.float32),
                "object": objects.repeat(v),
                "family": family.repeat(v),
            },
            split, x="image", y="azimuth", task="object", family="family",
            duplicates="allow",  # no two views are of one direction
            splits=_splits(objects, family, parts), k_shot=k_shot, n_query=n_query,
            n_train_tasks=n_train_tasks, standardize="none", seed=seed,
        )  # fmt: skip

    def extra_scores(self, indices: Sequence[int], predictions: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"circular_error": circular_error(predictions, y)} if predictions.shape == y.shape else {}


POSE = TaskDataSet(
    name="pose",
    description="Pose: 100 views each of 68 rendered objects; from which side?",
    license="MIT and CC BY 4.0, of the meshes",
    source="https://www.ycbbenchmarks.com/object-models/",
    steps="render these or other meshes to pose_objects.npz by tools/render_poses.py of the repository",
    files=("pose_objects.npz",),
    folder="pose",
    tasks=lambda split, folder: Pose(split, k_shot=1, n_query=1, folder=folder),
    md5="4d70c66715089d1e7bf0a95e39bc8b49",
)


def circular_error(predictions: Tensor, y: Tensor, *, turn: float = TURN) -> Tensor:
    """Return the mean absolute difference of directions in degrees, `(T,)` from 0 to 180.

    Args:
        predictions: `(T, q, 1)`, any real numbers.
        y: directions `(T, q, 1)` on the same scale.
        turn: a full turn on this scale.

    >>> circular_error(torch.tensor([[[9.9], [5.0]]]), torch.tensor([[[0.1], [5.0]]]))
    tensor([3.6000])
    """
    difference = (predictions - y).double() * (360 / turn)
    wrapped = torch.remainder(difference + 180, 360) - 180
    return wrapped.abs().flatten(1).mean(1).to(predictions.dtype)


def load_pose(folder: str | os.PathLike[str] | None = None, *, shrink: int = 1) -> PoseObjects:
    """Return the views; see `Pose`. Callers share the read-only arrays."""
    return _shrunk(POSE.require(folder), shrink)


@lru_cache(maxsize=2)
def _shrunk(path: Path, shrink: int) -> PoseObjects:
    data = _load(path)
    if shrink == 1:
        return data
    n, v, *sides = data.images.shape
    if shrink < 1 or any(side % shrink for side in sides):
        raise MetaLensError(
            f"shrink must divide the sides of the views, {sides[0]} and {sides[1]} pixels, got {shrink}."
        )
    height, width = (side // shrink for side in sides)
    small = np.empty((n, v, height, width), np.uint8)
    for views, shrunk in zip(data.images, small, strict=True):
        squares = views.reshape(v, height, shrink, width, shrink)
        shrunk[:] = squares.mean(axis=(2, 4), dtype=np.float32).round()
    small.flags.writeable = False
    return data._replace(images=small)


@lru_cache(maxsize=2)
def _load(path: Path) -> PoseObjects:
    arrays: dict[str, Any] = read_npz(path, PoseObjects._fields)
    data = PoseObjects(**arrays)
    n, v = data.azimuth.shape if data.azimuth.ndim == 2 else (0, 0)
    fits = (
        data.images.dtype == np.uint8
        and data.images.ndim == 4
        and data.images.shape[:2] == (n, v)
        and all(array.shape == (n,) for array in data[2:])
        and len(set(data.objects.tolist())) == n
    )
    if not fits:
        shapes = ", ".join(f"{name} {array.dtype}{array.shape}" for name, array in arrays.items())
        raise MetaLensError(
            f"{path} is no file of views: it must hold images uint8 (n, v, h, w), azimuth (n, v) and the "
            f"others (n,) with different objects, got {shapes}."
        )
    return data


def _splits(objects: np.ndarray, family: np.ndarray, parts: np.ndarray) -> dict[str, str]:
    """Return the split of every object; without test objects, validation ones are divided by families."""
    split_of = dict(zip(objects.tolist(), parts.tolist(), strict=True))
    if "test" not in split_of.values():
        held = hashed_order(set(family[parts == "val"].tolist()))
        test = held[round(len(held) * _VAL_SHARE) :]
        tested = np.isin(family, test) & (parts == "val")
        split_of |= dict.fromkeys(objects[tested].tolist(), "test")
    return split_of
