"""MetaLens: meta-learning as a function from a task to a model, with relation-aware regularization."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from metalens import distributions, exports, learners, networks, regularizers
    from metalens.exports import *

    __all__: list[str] = []
    __all__ += exports.__all__
else:
    # The names are imported when the first of them is asked for: they need PyTorch, whose import takes
    # seconds, and the command line has to answer, and to hear Ctrl-C, before.

    def __getattr__(name: str) -> object:
        from importlib import import_module

        exports = import_module("metalens.exports")
        if name in exports.__all__:
            return getattr(exports, name)
        for names in (vars(exports), globals()):  # the import has added the modules of MetaLens to these
            if name in names:
                return names[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*__getattr__("__all__"), *globals()})
