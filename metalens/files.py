"""Writing files so that readers see them whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metalens.errors import MetaLensError

MANIFEST = "manifest.json"  # what makes a folder that of a run
MODEL = "model.json"  # and what makes it that of a trained estimator


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a path to write to, and put the file in the target's place when the block has succeeded.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "a.txt") as path:
    ...     _ = path.write_text("whole")
    >>> [p.name for p in folder.iterdir()]
    ['a.txt']
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return the folder that METALENS_CACHE names, or the user's cache folder of the system."""
    import pooch  # slow to import

    return Path(os.environ.get("METALENS_CACHE") or pooch.os_cache("metalens")).expanduser()


def is_replaceable(folder: Path) -> bool:
    """Tell whether a folder is empty or that of a run or a model, and so may be replaced by another."""
    if not folder.is_dir():
        return False
    return any((folder / name).is_file() for name in (MANIFEST, MODEL)) or not any(folder.iterdir())


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a folder to fill, and put it in the target's place when the block has succeeded.

    Whatever ends the block early, an interruption included, leaves the target as it was.

    Args:
        target: where the folder shall stand; its parents are made.
        overwrite: replace what stands there, if it is an empty folder or that of a run or a model.

    Raises:
        MetaLensError: the target exists and may not be replaced, or cannot be written.

    >>> folder = Path(tempfile.mkdtemp()) / "run"
    >>> with new_folder(folder) as path:
    ...     _ = (path / "a.txt").write_text("whole")
    >>> [p.name for p in folder.iterdir()]
    ['a.txt']
    """
    if target.exists() and not overwrite:
        raise MetaLensError(f"{target} exists already; choose another --out, or pass --overwrite.")
    if target.is_symlink() or (target.exists() and not is_replaceable(target)):
        raise MetaLensError(f"{target} is no folder of a run and is not replaced; choose another --out.")
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    except OSError as error:
        raise MetaLensError(f"Cannot write to {target}: {error.strerror}; choose another --out.") from error
    try:
        filled = staging / "new"
        filled.mkdir()
        yield filled
        if target.exists():
            os.rename(target, staging / "old")
        try:
            os.rename(filled, target)
        except BaseException:
            if (staging / "old").exists() and not target.exists():
                os.rename(staging / "old", target)
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # parents made for nothing; those that hold the target stay
            for parent in missing:
                parent.rmdir()
