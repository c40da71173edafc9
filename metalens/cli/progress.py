"""Text in the terminal."""

from rich.console import Console


def say(*texts: str, wrap: bool = False) -> None:
    """Print texts as they are, each on a line; `wrap` breaks long ones at the width of the terminal."""
    console = Console(highlight=False, markup=False)
    for text in texts:
        console.print(text, soft_wrap=not wrap)
