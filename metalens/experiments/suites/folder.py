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
    """Lock the folder of a suite for the block.

    Entries are written there as they are done, so an earlier suite is deleted before the block.

    Args:
        folder: new, empty, or of an earlier run of the suite.
        suite: to be run there.
        overwrite: delete an earlier suite.
        resume: resume an earlier run of this suite.

    Raises:
        MetaLensError: the folder has other files, or an earlier suite and neither flag is given; another
            process writes it.
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
                    f"{folder} has a suite already; resume with --resume, or start over with --overwrite."
                )
            if found and resume:
                before = read_state(folder)
                if (before["suite"], before["size"]) != (suite.name, suite.size):
                    raise MetaLensError(
                        f"{folder} has the suite {before['suite']}, size {before['size']}, not {suite.name}, "
                        f"size {suite.size}; choose another --out."
                    )
            # SUITE goes last: a folder without it is never overwritten.
            for path in sorted(found, key=lambda path: path.name == SUITE) if overwrite else []:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            remove_partials(folder)
            yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("resume with --resume") from error
    except Timeout:
        raise MetaLensError(f"Another process writes {folder} now; choose another --out.") from None
