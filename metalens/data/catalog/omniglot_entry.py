"""Omniglot as a data set of the catalogue."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

from metalens.data import Split
from metalens.data.catalog.base import DataSet
from metalens.data.catalog.omniglot import split_characters
from metalens.data.catalog.omniglot_images import ZIPS, download_zips, load_images
from metalens.io.files import cache_folder


class OmniglotDataSet(DataSet):
    """Two zip files, which upstream keeps at stable addresses."""

    def find(self, folder: str | os.PathLike[str] | None = None) -> Path | None:
        cached = cache_folder() / "omniglot" / self.files[0]  # where tasks download it to
        found = super().find(folder) or cached
        return found if all((found.parent / name).is_file() for name in ZIPS) else None

    def check(self, folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
        images = load_images(self.require(folder).parent)
        facts: dict[str, Any] = {}
        for split in get_args(Split):
            of_split = split_characters(images.numbers, images.alphabets, split, "vinyals")
            facts[split] = {
                "classes": int(of_split.sum()),
                "images": int(of_split.sum()) * images.pixels.shape[1],
            }
        return facts

    def fetch(self) -> Path:
        return download_zips()[0].parent


OMNIGLOT = OmniglotDataSet(
    name="omniglot",
    description="Handwritten characters of 50 alphabets, 20 drawings of each",
    license="MIT",
    source="https://github.com/brendenlake/omniglot",
    steps=f"put {' and '.join(ZIPS)} of its folder python into a folder omniglot",
    files=tuple(ZIPS)[:1],
    folder="omniglot",
)
