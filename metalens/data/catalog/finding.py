"""Where the files of named data sets are."""

from __future__ import annotations

import os
from pathlib import Path

from metalens.errors import MetaLensError


def find_data(
    data: str, place: str, name: str, folder: str | os.PathLike[str] | None, *, is_folder: bool = False
) -> Path:
    """Return the path of a data set's file or folder.

    Args:
        data: what the data set is called, for the error.
        place: the folder inside the data folder in which it is looked for first.
        name: of the file or folder, which may also be in the data folder itself.
        folder: the data folder; `None` for the one that the environment variable METALENS_DATA names.
        is_folder: whether it is a folder.

    Raises:
        MetaLensError: it is in neither place.

    >>> find_data("M4", "tables", "no_such_file.csv", "/")
    Traceback (most recent call last):
    ...
    metalens.errors.MetaLensError: M4 needs a folder that holds no_such_file.csv, and / does not; set
    METALENS_DATA to one, or give folder.
    """
    given = folder if folder is not None else os.environ.get("METALENS_DATA")
    if given is not None:
        for path in (Path(given).expanduser() / place / name, Path(given).expanduser() / name):
            if path.is_dir() if is_folder else path.is_file():
                return path
    where = "METALENS_DATA names no folder" if given is None else f"{os.fspath(given)} does not"
    raise MetaLensError(
        f"{data} needs a folder that holds {name}, and {where}; set METALENS_DATA to one, or give folder."
    )
