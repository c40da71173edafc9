"""What every data set of the catalogue says about itself."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalens.errors import MetaLensError
from metalens.io.files import cache_folder


@dataclass(frozen=True, kw_only=True)
class DataSet(ABC):
    """A data set that people know by name.

    A subclass writes `check` and, where there is a stable address with a checksum, `fetch`.

    Args:
        name: what the command line calls it.
        description: one line for people.
        license: in a few words.
        source: the page that it comes from.
        steps: what to do by hand with what is there, as in "unpack it to a folder data".
        files: names of the file or folder that it is in; the first that is there counts.
        folder: where it is kept within a folder of data sets.
    """

    name: str
    description: str
    license: str
    source: str
    steps: str
    files: tuple[str, ...]
    folder: str

    def find(self, folder: str | os.PathLike[str] | None = None) -> Path | None:
        """Return where the data set is on this machine, or `None`.

        Args:
            folder: where to look; by default the folder that METALENS_DATA names, then the cache.
        """
        return next((path for path in self._places(folder) if path.exists()), None)

    def require(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Return where the data set is on this machine.

        Raises:
            MetaLensError: it is not there, with the steps to get it.
        """
        if (path := self.find(folder)) is not None:
            return path
        if folder is not None:
            where = os.fspath(folder)
        else:
            where = os.environ.get("METALENS_DATA") or "any folder, as METALENS_DATA names none"
        raise MetaLensError(f"{self.name} is not in {where}; {self._by_hand()}.")

    @abstractmethod
    def check(self, folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
        """Return what the data set holds, after looking at all of it.

        Args:
            folder: see `find`.

        Raises:
            MetaLensError: it is missing or damaged, or something is in two splits.
        """

    def fetch(self) -> Path:
        """Download the data set into the cache, and return where it is.

        Raises:
            MetaLensError: it has no stable address with a checksum, or cannot be downloaded.
        """
        raise MetaLensError(
            f"{self.name} cannot be fetched, as no address with a checksum is known; {self._by_hand()}."
        )

    def _by_hand(self) -> str:
        return f"from {self.source}, {self.steps}, in METALENS_DATA's folder or its {self.folder}"

    def _places(self, folder: str | os.PathLike[str] | None) -> Iterator[Path]:
        root = folder if folder is not None else os.environ.get("METALENS_DATA")
        roots = [] if root is None else [Path(root).expanduser()]
        if folder is None:
            roots.append(cache_folder() / "datasets")
        for place in roots:
            for file in self.files:
                yield place / self.folder / file
                yield place / file
