"""Descriptions of data sets: their source, their place on this machine, their check, their download."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from metalens.data.base import Split, TaskDistribution
from metalens.errors import MetaLensError
from metalens.io.download import download
from metalens.io.files import cache_folder


@dataclass(frozen=True, kw_only=True)
class DataSet(ABC):
    """A data set with a name.

    A subclass writes `check` and, if there is a stable address with a checksum, `fetch`.

    Args:
        name: on the command line.
        description: one line.
        license: a few words.
        source: address of its page.
        steps: how to install it by hand, as in "unpack it to a folder data".
        files: possible names of its file or folder; the first that exists counts.
        folder: its place within a folder of data sets.
    """

    name: str
    description: str
    license: str
    source: str
    steps: str
    files: tuple[str, ...]
    folder: str

    def find(self, folder: str | os.PathLike[str] | None = None) -> Path | None:
        """Return the path of the data set or `None`; by default METALENS_DATA and the cache are searched."""
        return next((path for path in self._places(folder) if self._is_at(path)), None)

    def require(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Return the path of the data set, or raise a `MetaLensError` with the steps to get it."""
        if (path := self.find(folder)) is not None:
            return path
        if folder is not None:
            where = os.fspath(folder)
        else:
            where = os.environ.get("METALENS_DATA") or "any folder, as METALENS_DATA names none"
        raise MetaLensError(f"{self.name} is not in {where}; {self._by_hand()}.")

    @abstractmethod
    def check(self, folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
        """Read all of the data set, and return its contents by split.

        Raises:
            MetaLensError: it is missing or damaged, or something is in two splits.
        """

    def fetch(self) -> Path:
        """Download the data set into the cache, and return its path.

        Raises:
            MetaLensError: it has no stable address with a checksum, or cannot be downloaded.
        """
        raise MetaLensError(
            f"{self.name} cannot be fetched, as no address with a checksum is known; {self._by_hand()}."
        )

    def _by_hand(self) -> str:
        return f"from {self.source}, {self.steps}, in METALENS_DATA's folder or its {self.folder}"

    def _places(self, folder: str | os.PathLike[str] | None) -> Iterator[Path]:
        given = folder if folder is not None else os.environ.get("METALENS_DATA")
        if given is not None:
            yield from self._places_in(Path(given).expanduser())
        if folder is None:
            yield from self._places_in(cache_folder() / "datasets")

    def _places_in(self, root: Path) -> Iterator[Path]:
        for file in self.files:
            yield root / self.folder / file
            yield root / file

    def _is_at(self, path: Path) -> bool:
        return path.exists()


@dataclass(frozen=True, kw_only=True)
class TaskDataSet(DataSet):
    """A file that a distribution reads.

    Args:
        tasks: makes the tasks of a split with at least two examples, from the folder of the file.
        md5: sum of the file behind the results in the documentation; `None` without results.
    """

    tasks: Callable[[Split, Path], TaskDistribution]
    md5: str | None = None
    folder: str = "tables"

    def check(self, folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
        path = self.require(folder)
        facts: dict[str, Any] = {
            split: self.tasks(split, path.parent).metadata() for split in get_args(Split)
        }  # the distribution refuses damaged files, and a task in two splits
        if self.md5 is not None:
            with path.open("rb") as file:
                same = hashlib.file_digest(file, "md5").hexdigest() == self.md5
            facts["file"] = f"{'the' if same else 'not the'} one that results in the documentation are from"
        return facts


def fetched(name: str, files: Mapping[str, str], folder: Path, by_hand: str) -> Path:
    """Return the first of some files, downloaded into a folder; see `metalens.io.download.download`."""
    try:
        return download(files, folder)[0]
    except OSError as error:
        raise MetaLensError(
            f"{name} is not on this machine and could not be downloaded ({type(error).__name__}); {by_hand}."
        ) from error
    except ValueError as error:
        raise MetaLensError(
            f"{name}'s download does not have the published MD5 sum, so it was not kept; try again, or "
            f"{by_hand}."
        ) from error
