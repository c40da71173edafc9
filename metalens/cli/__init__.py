"""The command line.

`metalens list`, `run RECIPE`, `suite NAME`, `sweep RECIPE`, `report DIR`, `compare DIR DIR`, `relations DIR`,
`data ACTION`; for people's own data `train`, `predict` and `evaluate`.

Each command is a module with the functions `add_arguments` and `execute`, imported when the command is asked
for. Nothing slow is imported before `main` is ready for Ctrl-C.
"""

from __future__ import annotations

import signal
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from metalens.errors import MetaLensError

_LONGEST = 1000  # characters of a message

COMMANDS = {
    "list": ("metalens.cli.listing", "recipes, learners, regularizers, task samplers, networks"),
    "run": ("metalens.cli.run", "train, test, compare, report"),
    "suite": ("metalens.cli.suite", "run many recipes, such as those of a table of the paper"),
    "sweep": ("metalens.cli.sweep", "search for good settings of a recipe, by validation tasks alone"),
    "report": ("metalens.cli.report", "write a run's figures and report anew, or its table as text"),
    "compare": ("metalens.cli.compare", "compare the arms of several runs on the same tasks"),
    "relations": ("metalens.cli.relations", "show which tasks a trained model finds alike"),
    "data": ("metalens.cli.data", "data sets: list them, check one, fetch one"),
    "train": ("metalens.cli.train", "your own tasks: train a model that adapts to new ones, report"),
    "predict": ("metalens.cli.predict", "your own tasks: predict rows of a new task from a few others"),
    "evaluate": ("metalens.cli.evaluate", "your own tasks: score a trained model on further ones"),
}


def main(
    arguments: Sequence[str] | None = None,
    *,
    commands: Mapping[str, tuple[str, str]] = COMMANDS,
    prog: str = "metalens",
    description: str = "Meta-learning with task-relation regularization.",
) -> None:
    """Run the command line and exit; a user's mistake ends in one sentence and status 2.

    Args:
        arguments: the words after the program's name; by default those of the process.
        commands: module and help text of each command.
        prog: the program's name in its help.
        description: what the program does.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    warnings.showwarning = _notes()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # being ended cleans up like Ctrl-C
    try:
        _dispatch(words, commands, prog, description)
    except (ArgumentError, MetaLensError) as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror}.", 2)
    except UnicodeDecodeError as error:
        _fail(f"a file is not UTF-8 text: {error}.", 2)
    except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
        signs = ("allocate", "Overflow", "too large")  # of PyTorch, NumPy and Python
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in signs):
            raise
        _fail("the sizes asked for do not fit into memory.", 2)
    except KeyboardInterrupt as interruption:
        # `python -m` ends by the signal, whatever is raised here, if the interrupt met code made from text,
        # as data classes are; further code made from text makes it forget that.
        exec("")
        _fail(f"interrupted; {str(interruption) or 'nothing was written'}.", 130)


def _notes() -> Callable[..., None]:
    """Return what shows a warning as a note, the same one once."""
    said = set()

    def note(message: Warning | str, *_: object) -> None:
        if (text := f"metalens: note: {_line(str(message))}") not in said:
            said.add(text)
            print(text, file=sys.stderr)

    return note


def _fail(message: str, status: int) -> None:
    print(f"metalens: {_line(message)}", file=sys.stderr)
    raise SystemExit(status)


def _line(message: str) -> str:
    """Return a message as one line that a terminal shows, whatever it quotes from a file.

    >>> _line("Row 3 holds 'a\\x1b[31m\\nb'; correct it.")
    "Row 3 holds 'a\\\\x1b[31m b'; correct it."
    """
    words = " ".join(message.split())
    if len(words) > _LONGEST:
        words = (
            f"{words[: _LONGEST // 2]} ... {words[-_LONGEST // 4 :]}"  # what to do about it stands at the end
        )
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


def _dispatch(words: list[str], commands: Mapping[str, tuple[str, str]], prog: str, description: str) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    subcommands = parser.add_subcommands(dest="command")
    for name, (module, text) in commands.items():
        command = ArgumentParser(exit_on_error=False)
        subcommands.add_subcommand(name, command, help=text)
        if words[:1] == [name]:
            import_module(module).add_arguments(command, words)
    settings = parser.parse_args(words or ["--help"])
    module, _ = commands[settings.command]
    import_module(module).execute(settings[settings.command], words)
