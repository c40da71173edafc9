"""Render grey views of Wavefront meshes (NAME.obj) for `metalens.Pose`; needs pybullet 3.2.5 or later.

python -m tools.render_poses pose_objects.npz MESHES/*.obj
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from metalens.data.named_tasks import split_tasks
from metalens.errors import MetaLensError
from metalens.io.files import atomic_path

_FIELD_OF_VIEW = 40.0  # degrees
_DISTANCE = 3.2  # of the camera, in radii of the object
_BACKGROUND = 255
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_APART = np.pi / 6  # radians from which two views are said to be from different sides


def render_poses(
    out: str | os.PathLike[str],
    meshes: Mapping[str, str | os.PathLike[str]],
    *,
    families: Mapping[str, str] | None = None,
    splits: Sequence[float] | Mapping[str, str] = (0.7, 0.15, 0.15),
    n_views: int = 100,
    size: int = 128,
    elevation: float = 30.0,
    up: Literal["y", "z"] = "y",
    seed: int = 0,
) -> None:
    """Render grey views of meshes from random directions on the processor, and write them for `Pose`.

    Each object is scaled to the same radius and seen from all around, from the same height, on white.

    Args:
        out: the file to write; `Pose` finds it by the name `pose_objects.npz`.
        meshes: paths of Wavefront files (`.obj`) by the names of the objects.
        families: of objects with one shape, by the names of the objects; the others are by themselves.
        splits: shares of families in train, val and test, or the split of every object by its name.
        n_views: views of each object; azimuths are uniform over a turn.
        size: height and width of a view in pixels.
        elevation: of the camera, in degrees above the horizon.
        up: the axis of the meshes that points up.
        seed: of the azimuths.

    Raises:
        MetaLensError: pybullet is missing, a mesh cannot be read, or a setting is out of range.

    >>> render_poses("pose_objects.npz", {"cup": "cup.obj", "duck": "duck.obj"})  # doctest: +SKIP
    """
    if not meshes or n_views < 2 or size < 1 or not -90 < elevation < 90 or up not in ("y", "z"):
        raise MetaLensError(
            "render_poses needs meshes, n_views of at least 2, a size of at least 1, an elevation between "
            f"-90 and 90, and up y or z, got {len(meshes)} meshes, {n_views}, {size}, {elevation} and {up!r}."
        )
    names = list(meshes)
    family_of = {name: (families or {}).get(name, name) for name in names}
    split_of = split_tasks(names, splits, family_of)
    bodies = {name: _corners(Path(path)) for name, path in meshes.items()}
    azimuth = np.random.default_rng(seed).uniform(0, 2 * np.pi, (len(names), n_views))
    images = np.empty((len(names), n_views, size, size), np.uint8)
    with _Renderer(size, np.deg2rad(elevation), up) as renderer:
        for views, name, angles in zip(images, names, azimuth, strict=True):
            views[:] = renderer.views(Path(meshes[name]), bodies[name], angles)
    arrays = {
        "images": images,
        "azimuth": azimuth.astype(np.float32),
        "objects": np.array(names),
        "family": np.array([family_of[name] for name in names]),
        "asymmetry": np.array([asymmetry(*pair) for pair in zip(images, azimuth, strict=True)], np.float32),
        "split": np.array([split_of[name] for name in names]),
    }
    with atomic_path(Path(out).expanduser()) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def asymmetry(views: np.ndarray, azimuth: np.ndarray) -> float:
    """Return how much the two most similar views of an object from different sides differ.

    The mean absolute difference of grey values, over the pixels that show the object in either view, for the
    two views more than 30 degrees apart that differ least.

    Args:
        views: `(v, h, w)` uint8 on white.
        azimuth: `(v,)` radians.

    Returns:
        0 to 255; 0 also where no two views are so far apart.

    >>> views = np.full((2, 1, 2), 255, np.uint8)
    >>> views[:, 0, 0] = 10, 30
    >>> asymmetry(views, np.array([0.0, 3.0]))
    20.0
    """
    flat, least = views.reshape(len(views), -1).astype(np.int16), np.inf
    for view, angle in zip(flat, azimuth, strict=True):
        apart = np.abs((azimuth - angle + np.pi) % (2 * np.pi) - np.pi) > _APART
        others = flat[apart]
        shown = ((others != _BACKGROUND) | (view != _BACKGROUND)).sum(1)
        differences = np.abs(others - view).sum(1) / shown.clip(min=1)
        least = min(least, differences.min(initial=np.inf))
    return float(least) if np.isfinite(least) else 0.0


def _corners(path: Path) -> np.ndarray:
    """Return the corners of a mesh, `(n, 3)`."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8", errors="replace").splitlines()
        corners = np.array([line.split()[1:4] for line in lines if line.startswith("v ")], np.float64)
    except (OSError, ValueError) as error:
        raise MetaLensError(
            f"Cannot read the mesh {path} ({type(error).__name__}); give a Wavefront file (.obj)."
        ) from error
    if corners.ndim != 2 or len(corners) < 3 or not np.isfinite(corners).all() or not np.ptp(corners):
        raise MetaLensError(f"{path} is no mesh: it has no three different corners (lines 'v x y z').")
    return corners


class _Renderer:
    """pybullet's renderer for one processor, as long as it is open."""

    def __init__(self, size: int, elevation: float, up: str) -> None:
        try:
            import pybullet
        except ImportError as error:
            raise MetaLensError("pybullet is not installed; run pip install pybullet.") from error
        self._bullet: Any = pybullet
        self._size, self._elevation, self._up = size, elevation, up

    def __enter__(self) -> _Renderer:
        self._client = self._bullet.connect(self._bullet.DIRECT)
        return self

    def __exit__(self, *_: object) -> None:
        self._bullet.disconnect(self._client)

    def views(self, path: Path, corners: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
        """Return grey views of a mesh, `(v, size, size)` uint8."""
        bullet, client = self._bullet, {"physicsClientId": self._client}
        middle = (corners.min(0) + corners.max(0)) / 2
        radius = np.linalg.norm(corners - middle, axis=1).max()
        turn = [np.pi / 2 if self._up == "y" else 0, 0, 0]
        frame = bullet.getQuaternionFromEuler(turn)
        place, _ = bullet.multiplyTransforms([0, 0, 0], frame, (-middle / radius).tolist(), [0, 0, 0, 1])
        try:
            shape = bullet.createVisualShape(
                bullet.GEOM_MESH,
                fileName=str(path.expanduser().resolve()),
                meshScale=[1 / radius] * 3,
                visualFramePosition=place,
                visualFrameOrientation=frame,
                **client,
            )
            body = bullet.createMultiBody(baseVisualShapeIndex=shape, **client)
        except bullet.error as error:
            raise MetaLensError(
                f"pybullet cannot load the mesh {path} ({error}); export it again."
            ) from error
        lens = bullet.computeProjectionMatrixFOV(_FIELD_OF_VIEW, 1.0, 0.1, 2 * _DISTANCE)
        views = np.stack([self._view(float(angle), lens) for angle in azimuth])
        bullet.removeBody(body, **client)
        return views

    def _view(self, azimuth: float, lens: Sequence[float]) -> np.ndarray:
        bullet, size = self._bullet, self._size
        level = np.cos(self._elevation)
        direction = [level * np.cos(azimuth), level * np.sin(azimuth), np.sin(self._elevation)]
        camera = bullet.computeViewMatrix([_DISTANCE * part for part in direction], [0, 0, 0], [0, 0, 1])
        _, _, colors, _, found = bullet.getCameraImage(
            size,
            size,
            camera,
            lens,
            shadow=0,
            lightDirection=[*direction[:2], direction[2] + 1],  # a fixed light would tell directions
            renderer=bullet.ER_TINY_RENDERER,
            physicsClientId=self._client,
        )
        grey = np.reshape(colors, (size, size, 4))[..., :3] @ _LUMINANCE
        # What shows the object stays apart from the background, however bright it is.
        visible = np.reshape(found, (size, size)) >= 0
        return np.where(visible, grey.round().clip(0, _BACKGROUND - 1), _BACKGROUND).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="file to write, pose_objects.npz for Pose")
    parser.add_argument("meshes", type=Path, nargs="+", help="Wavefront files; their stems name the objects")
    parser.add_argument(
        "--families", nargs="*", default=[], metavar="NAME=FAMILY", help="one shape, one split"
    )
    parser.add_argument("--n-views", type=int, default=100, help="views of each object")
    parser.add_argument("--size", type=int, default=128, help="height and width of a view in pixels")
    parser.add_argument("--elevation", type=float, default=30.0, help="of the camera, in degrees")
    parser.add_argument("--up", choices=["y", "z"], default="y", help="axis of the meshes that points up")
    parser.add_argument("--seed", type=int, default=0, help="of the azimuths")
    settings = vars(parser.parse_args())
    out, paths, families = (settings.pop(name) for name in ("out", "meshes", "families"))
    meshes = {path.stem: path for path in paths}
    if len(meshes) < len(paths):
        parser.error("Two meshes have one name; rename one.")
    if stray := [pair for pair in families if pair.split("=")[0] not in meshes or pair.count("=") != 1]:
        parser.error(f"--families takes NAME=FAMILY with the name of a mesh, got {stray[0]}.")
    try:
        render_poses(out, meshes, families=dict(pair.split("=") for pair in families), **settings)
    except MetaLensError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
