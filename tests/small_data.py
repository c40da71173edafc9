"""Small data for every task distribution: functions, arrays, tables, and files as they are published."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from metalens import Examples, Task


def line(number: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(number).normal(size=(20, 2))
    return x, (number + 1) * x[:, :1]


def clouds(number: int) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(40) % 4
    return np.random.default_rng(number).normal(size=(40, 2)) + y[:, None], y


def lines(rng: np.random.Generator, n: int) -> Task:
    slope, x = rng.normal(size=(n, 1, 1)), rng.normal(size=(n, 7, 1))
    return Task(Examples(x[:, :3], slope * x[:, :3]), Examples(x[:, 3:], slope * x[:, 3:]), slope[:, 0])


@cache
def arrays(classes: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(20), 24)
    y = np.tile(np.array(["a", "b", "c"]), 160) if classes else rng.normal(size=(480, 2))
    return {"x": rng.normal(size=(480, 3, 2)), "y": y, "task": task}


@cache
def table() -> pd.DataFrame:
    """Return twenty patients with twenty rows each, in four wards."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(400, 3)), columns=["length", "mass", "score"])
    patient = np.arange(400) // 20
    names = {"patient": [f"p{n:02}" for n in patient], "ward": [f"w{n % 4}" for n in patient]}
    return frame.assign(**names, colour=rng.choice(["red", "blue"], 400))


def write_images(folder: Path) -> Path:
    """Write twelve class folders of six images each, in a zip file."""
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number in range(12 * 6):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            archive.writestr(f"class{number // 6:02}/{number % 6}.png", file.getvalue())
    return folder / "images.zip"


def write_fs_mol(folder: Path) -> Path:
    """Write three assays of every split as FS-Mol has them."""
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        (folder / "fs-mol" / split).mkdir(parents=True)
        for number in range(3):
            rows = [
                {
                    "SMILES": "C",
                    "Property": f"{row % 2}.0",
                    "LogRegressionProperty": str(5 + row / 10),
                    "fingerprints": rng.integers(2, size=2048).tolist(),
                }
                for row in range(20)
            ]
            with gzip.open(folder / "fs-mol" / split / f"CHEMBL{split}{number}.jsonl.gz", "wt") as file:
                file.write("\n".join(map(json.dumps, rows)))
    return folder


def with_value(array: np.ndarray, place: int | tuple[int, ...], value: float) -> np.ndarray:
    """Return the array as real numbers, with another value in one place."""
    changed = array.astype(float)
    changed[place] = value
    return changed
