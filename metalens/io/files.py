"""Writing files so that readers see them whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from metalens.errors import DivergenceError, MetaLensError, extra

MANIFEST = "manifest.json"  # what makes a folder that of a run
MODEL = "model.json"  # and what makes it that of a trained estimator
SUITE = "suite.json"  # and a suite
SWEEP = "sweep.json"  # and what makes it that of a sweep


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
        with partial.open("rb+") as file:
            os.fsync(file.fileno())  # else a loss of power may leave the name without the content
        os.replace(partial, target)
        _sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """Say that a folder cannot be written to where the block fails for that.

    Raises:
        MetaLensError: it cannot.
    """
    try:
        yield
    except OSError as error:
        raise MetaLensError(
            f"Cannot write to {folder}: {error.strerror}; make it writable and try again."
        ) from error


def remove_partials(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder, where nobody else writes."""
    for path in folder.glob(".*.partial"):
        path.unlink()


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cache_folder() -> Path:
    """Return the folder that METALENS_CACHE names, or the user's cache folder of the system."""
    if folder := os.environ.get("METALENS_CACHE"):
        return Path(folder).expanduser()
    with extra("cli"):
        import pooch  # slow to import
    return pooch.os_cache("metalens")


def writable_folder(path: str | Path) -> Path:
    """Return a folder, made where it is missing, that can be written to.

    Raises:
        MetaLensError: it cannot.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # an existing folder may still refuse
            pass
    except OSError as error:
        raise MetaLensError(f"Cannot write to {folder}: {error.strerror}; choose another folder.") from error
    return folder


def is_replaceable(folder: Path) -> bool:
    """Tell whether a folder is empty or that of a run or a model, and so may be replaced by another."""
    if not folder.is_dir():
        return False
    return any((folder / name).is_file() for name in (MANIFEST, MODEL)) or not any(folder.iterdir())


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False, resume: bool | None = None) -> Iterator[Path]:
    """Give a folder to fill, and put it in the target's place when the block has succeeded.

    Whatever ends the block early, an interruption included, leaves the target as it was. What is unfinished
    and can be resumed is kept beside it, as `.NAME.unfinished`, if trained weights are in it that did not
    diverge.

    Args:
        target: where the folder shall stand; its parents are made.
        overwrite: replace what stands there, if it is an empty folder or that of a run or a model, and
            unless `resume` also what is unfinished.
        resume: give the unfinished folder with what is in it, if there is one; `None` for what cannot be
            resumed, of which nothing is kept.

    Raises:
        MetaLensError: the target exists and may not be replaced, or cannot be written; something unfinished
            is neither to be resumed nor to be replaced, or another process is at it.

    >>> folder = Path(tempfile.mkdtemp()) / "run"
    >>> with new_folder(folder) as path:
    ...     _ = (path / "a.txt").write_text("whole")
    >>> [p.name for p in folder.iterdir()]
    ['a.txt']
    """
    keep = resume is not None
    with _staging(target, keep) as (filled, old):
        if old.exists() and not target.exists():
            os.rename(old, target)  # killed between the two steps of a replacement
        if target.exists() and not overwrite:
            raise MetaLensError(f"{target} exists already; choose another --out, or pass --overwrite.")
        if target.is_symlink() or (target.exists() and not is_replaceable(target)):
            raise MetaLensError(f"{target} is no folder of a run and is not replaced; choose another --out.")
        if keep and _has_weights(filled) and not (resume or overwrite):
            raise MetaLensError(
                f"A run into {target} is unfinished; go on with --resume, or begin anew with --overwrite."
            )
        if not resume:
            shutil.rmtree(filled, ignore_errors=True)
        filled.mkdir(exist_ok=True)
        try:
            yield filled
        except DivergenceError:
            shutil.rmtree(filled)  # it would come to the same again
            raise
        except KeyboardInterrupt as error:
            if keep and _has_weights(filled):
                raise KeyboardInterrupt("go on with --resume") from error
            raise
        except Exception:
            if keep and _has_weights(filled):
                warnings.warn("What is trained is kept; go on with --resume.", stacklevel=3)
            raise
        if target.exists():
            os.rename(target, old)
        try:
            os.rename(filled, target)
        except BaseException:
            if old.exists() and not target.exists():
                os.rename(old, target)
            raise


@contextmanager
def _staging(target: Path, keep: bool) -> Iterator[tuple[Path, Path]]:
    """Give the folders for a new run and an old one, to this process alone, and `keep` what has weights."""
    staging = target.with_name(f".{target.name}.unfinished")
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        try:
            staging.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MetaLensError(
                f"Cannot write to {target}: {error.strerror}; choose another --out."
            ) from error
        with FileLock(staging / "lock", timeout=0):
            try:
                yield staging / "new", staging / "old"
            finally:
                if not (keep and _has_weights(staging / "new")):
                    shutil.rmtree(staging, ignore_errors=True)
    except Timeout:
        raise MetaLensError(f"Another process writes {target} now; choose another --out.") from None
    finally:
        with suppress(OSError):  # parents made for nothing; those that hold the target stay
            for parent in missing:
                parent.rmdir()


def _has_weights(folder: Path) -> bool:
    return any(folder.rglob("*.safetensors"))
