"""The folder of a suite, which one process at a time fills."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from metalens.errors import MetaLensError
from metalens.experiments.suites.report import is_suite, read_state
from metalens.experiments.suites.suite import Suite
from metalens.io.files import SUITE, remove_partials, writable_folder

LOCK = ".lock"


@contextmanager
def suite_folder(folder: Path, suite: Suite, *, overwrite: bool, resume: bool) -> Iterator[None]:
    """Hold the folder of a suite while the block runs.

    What is done is written there at once, entry by entry; so an earlier suite is emptied before, not after.

    Args:
        folder: a new or empty one, or that of an earlier run of the suite.
        suite: what will be run there.
        overwrite: delete what an earlier suite left there.
        resume: go on with it.

    Raises:
        MetaLensError: the folder has something else, or an earlier suite that is neither to be resumed nor
            to be deleted; another process is at it.
    """
    if overwrite and resume:
        raise MetaLensError("Only one of --overwrite and --resume can be given.")
    writable_folder(folder)
    try:
        with FileLock(folder / LOCK, timeout=0):
            found = [path for path in folder.iterdir() if path.name[0] != "."]
            if found and not is_suite(folder):
                raise MetaLensError(f"{folder} has other files than those of a suite; choose another --out.")
            if found and not (overwrite or resume):
                raise MetaLensError(
                    f"{folder} has a suite already; go on with --resume, or begin anew with --overwrite."
                )
            if found and resume:
                before = read_state(folder)
                if (before["suite"], before["size"]) != (suite.name, suite.size):
                    raise MetaLensError(
                        f"{folder} has the suite {before['suite']}, size {before['size']}, not {suite.name}, "
                        f"size {suite.size}; choose another --out."
                    )
            # What makes it a suite goes last, lest an interruption leaves what cannot be overwritten.
            for path in sorted(found, key=lambda path: path.name == SUITE) if overwrite else []:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            remove_partials(folder)
            yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("go on with --resume") from error
    except Timeout:
        raise MetaLensError(f"Another process writes {folder} now; choose another --out.") from None
