"""The command line.

`metalens list`, `run RECIPE`, `suite NAME`, `sweep RECIPE`, `report DIR`, `compare DIR DIR`, `relations DIR`,
`data ACTION`; for your own data `train`, `predict`, `evaluate` and `serve`.

Each command is a module with the functions `add_arguments` and `execute`, imported when the command is asked
for. Nothing slow is imported before `main` is ready for Ctrl-C.
"""

import re
import signal
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from metalens.errors import MetaLensError

MAX_LENGTH = 1000  # characters of a message

COMMANDS = {
    "list": ("metalens.cli.listing", "list recipes, suites, learners, regularizers and task samplers"),
    "run": ("metalens.cli.run", "train and test the arms of a recipe, and compare them in a report"),
    "suite": ("metalens.cli.suite", "run several recipes, such as those of a table of the paper"),
    "sweep": ("metalens.cli.sweep", "search for good settings of a recipe on validation tasks"),
    "report": ("metalens.cli.report", "rewrite the report of a run, or write its table as text"),
    "compare": ("metalens.cli.compare", "compare the arms of several runs"),
    "relations": ("metalens.cli.relations", "show how a trained model relates tasks to each other"),
    "data": ("metalens.cli.data", "list, check and fetch data sets"),
    "train": ("metalens.cli.train", "train a model on tasks of your own, and report"),
    "predict": ("metalens.cli.predict", "predict a new task of your own from a few examples"),
    "evaluate": ("metalens.cli.evaluate", "score a trained model on further tasks of your own"),
    "serve": ("metalens.cli.serve", "serve a trained model on this machine: a page and a JSON end point"),
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
        arguments: those after the program's name; by default `sys.argv[1:]`.
        commands: module and help text of each command.
        prog: the program's name in its help.
        description: what the program does.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    warnings.showwarning = _notes()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up like Ctrl-C
    try:
        _dispatch(words, commands, prog, description)
    except MetaLensError as error:
        _fail(str(error), 2)
    except ArgumentError as error:
        _fail(_argument(str(error)), 2)
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror}.", 2)
    except UnicodeDecodeError as error:
        _fail(f"a file is not UTF-8 text: {error}.", 2)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "metalens"):
            raise
        _fail(f"{missing} is not installed: pip install 'metalens[all]'.", 2)
    except (MemoryError, OverflowError, RuntimeError, TypeError) as error:
        # PyTorch, NumPy and Python share no exception class for this.
        words = ("allocate", "Overflow", "too large")
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in words):
            raise
        _fail("the sizes asked for do not fit into memory.", 2)
    except KeyboardInterrupt as interruption:
        # After an interrupt in code run by `exec`, as of dataclasses, `python -m` ends by the signal whatever
        # is raised here, unless other such code is run.
        exec("")
        _fail(f"interrupted; {str(interruption) or 'nothing was written'}.", 130)


def _notes() -> Callable[..., None]:
    """Return a handler that prints every warning once, as a note."""
    seen = set()

    def note(message: Warning | str, *_: object) -> None:
        if (text := f"metalens: note: {_line(str(message))}") not in seen:
            seen.add(text)
            print(text, file=sys.stderr)

    return note


def _fail(message: str, status: int) -> None:
    print(f"metalens: {_line(message)}", file=sys.stderr)
    raise SystemExit(status)


def _argument(message: str) -> str:
    r"""Return a parser's message in one sentence, where it is about a value of the wrong type.

    >>> _argument("Parser key \"steps\": Expected a <class 'int'>. Got value: abc")
    "--steps must be int, got 'abc'."
    """
    found = re.fullmatch(r'Parser key "(.*?)".*?:(.*)(?:Got|Given) value: (.*)', message, re.DOTALL)
    if not found:
        return message
    kinds = re.findall(r"<class '(\w+)'>|Literal\[(.*?)\]", found[2].partition("Given value type")[0])
    words = dict.fromkeys(kind.replace("NoneType", "null") or choices for kind, choices in kinds)
    return f"--{found[1]} must be {' or '.join(words)}, got {found[3].strip()!r}." if words else message


def _line(message: str) -> str:
    """Return a message as one printable line.

    >>> _line("Row 3 holds 'a\\x1b[31m\\nb'; correct it.")
    "Row 3 holds 'a\\\\x1b[31m b'; correct it."
    """
    words = " ".join(message.split())
    if len(words) > MAX_LENGTH:
        words = f"{words[: MAX_LENGTH // 2]} ... {words[-MAX_LENGTH // 4 :]}"  # the remedy is at the end
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


def _dispatch(words: list[str], commands: Mapping[str, tuple[str, str]], prog: str, description: str) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    parser.add_argument(
        "--import",
        metavar="MODULE",
        dest="module",
        help="import a module that files of a run or model name",
    )
    if words[:1] == ["--import"] and len(words) > 1:
        from metalens.specs.outside import import_user_module

        import_user_module(words[1])
        words = words[2:]
    subcommands = parser.add_subcommands(dest="command")
    for name, (module, text) in commands.items():
        command = ArgumentParser(exit_on_error=False)
        subcommands.add_subcommand(name, command, help=text)
        if words[:1] == [name]:
            import_module(module).add_arguments(command, words)
    settings = parser.parse_args(words or ["--help"])
    module, _ = commands[settings.command]
    import_module(module).execute(settings[settings.command], words)
