"""Downloads, with a checksum and a progress bar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalens.errors import extra

if TYPE_CHECKING:
    from rich.progress import Progress


def download(files: Mapping[str, str], folder: Path) -> tuple[Path, ...]:
    """Download files into a folder, unless they are there, and return their paths.

    Args:
        files: the MD5 checksum of each by its URL, whose last part is the name of the file.
        folder: where they are kept.

    Raises:
        OSError: a file cannot be downloaded or written; all network errors of pooch derive from it.
        ValueError: a file has another checksum, and was not kept.
    """
    with extra("cli"):
        import pooch
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    paths = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        for url, md5 in files.items():
            name = url.rsplit("/", 1)[-1]
            bar: Any = _Bar(display, name)  # pooch takes such objects, though it declares a bool
            paths.append(Path(pooch.retrieve(url, f"md5:{md5}", name, folder, progressbar=bar)))
    return tuple(paths)


class _Bar:
    """A progress bar for pooch, drawn by rich so that tqdm is not needed."""

    total = 0

    def __init__(self, display: Progress, name: str) -> None:
        self._display = display
        self._task = display.add_task(name, total=None, visible=False)

    def update(self, n: int) -> None:
        self._display.update(self._task, total=self.total, advance=n, visible=True)

    def reset(self) -> None:
        self._display.reset(self._task)

    def close(self) -> None:
        self._display.stop_task(self._task)
