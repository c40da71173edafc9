"""Writing files atomically: readers see them whole or not at all."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from metalens.errors import DivergenceError, MetaLensError, extra

# The file by which the folder of a run, a trained estimator, a suite or a sweep is recognized.
MANIFEST, MODEL, SUITE, SWEEP = "manifest.json", "model.json", "suite.json", "sweep.json"


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path to write to; the file replaces the target when the block has succeeded.

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
        if os.name == "posix":  # elsewhere a folder cannot be opened
            descriptor = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """Reraise an `OSError` of the block as a `MetaLensError` that names the folder."""
    try:
        yield
    except OSError as error:
        raise MetaLensError(f"Cannot write to {folder}: {error.strerror}; make it writable.") from error


def remove_partials(folder: Path) -> None:
    """Remove the partial files of killed writers from a folder to which no other process writes."""
    for path in folder.glob(".*.partial"):
        path.unlink()


def cache_folder() -> Path:
    """Return the folder named by METALENS_CACHE, or the user's cache folder of the system."""
    if folder := os.environ.get("METALENS_CACHE"):
        return Path(folder).expanduser()
    with extra("cli"):
        import pooch  # slow to import
    return pooch.os_cache("metalens")


def writable_folder(path: str | Path) -> Path:
    """Return a folder after creating it, if it is missing.

    Raises:
        MetaLensError: it cannot be written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # an existing folder may still refuse
            pass
    except OSError as error:
        raise MetaLensError(f"Cannot write to {folder}: {error.strerror}; choose another folder.") from error
    return folder


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False, resume: bool | None = None) -> Iterator[Path]:
    """Yield a folder to fill, which replaces the target when the block has succeeded.

    If the block ends early, even by an interruption, the target stays as it was. An unfinished run that can
    be resumed is kept beside it, as `.NAME.unfinished`, if it has trained weights and did not diverge.

    Args:
        target: the folder to create, with its parents.
        overwrite: replace the target if it is an empty folder or that of a run or a model, and, unless
            `resume`, an unfinished run, too.
        resume: yield the unfinished folder with its files, if there is one; `None` for runs that cannot be
            resumed and are never kept.

    Raises:
        MetaLensError: the target exists and may not be replaced, or cannot be written; an unfinished run is
            neither to be resumed nor to be overwritten; or another process writes the target.

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
        if target.is_symlink() or (target.exists() and not _is_replaceable(target)):
            raise MetaLensError(f"{target} is no folder of a run and is not replaced; choose another --out.")
        if keep and _has_weights(filled) and not (resume or overwrite):
            raise MetaLensError(
                f"A run into {target} is unfinished; resume it with --resume, or start over with --overwrite."
            )
        if not resume:
            shutil.rmtree(filled, ignore_errors=True)
        filled.mkdir(exist_ok=True)
        try:
            yield filled
        except DivergenceError:
            shutil.rmtree(filled)  # it would diverge again
            raise
        except KeyboardInterrupt as error:
            if keep and _has_weights(filled):
                raise KeyboardInterrupt("resume with --resume") from error
            raise
        except Exception:
            if keep and _has_weights(filled):
                warnings.warn("The trained weights are kept; resume with --resume.", stacklevel=3)
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
    """Yield folders for a new and an old run, locked for this process; afterwards `keep` trained weights."""
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


def _is_replaceable(folder: Path) -> bool:
    is_ours = any((folder / name).is_file() for name in (MANIFEST, MODEL))
    return folder.is_dir() and (is_ours or not any(folder.iterdir()))
