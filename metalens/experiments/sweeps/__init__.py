"""Sweeps: settings of a recipe and of its one arm, searched for by validation scores.

The test tasks are never drawn here. `Optuna <https://optuna.org>`_ proposes the settings; any number of
processes work on one sweep, which is a folder.

Raises:
    MetaLensError: Optuna is not installed.
"""

from metalens.errors import MetaLensError

try:
    import optuna
except ImportError:
    raise MetaLensError("Sweeps need Optuna: pip install 'metalens[sweep]'.") from None

optuna.logging.set_verbosity(optuna.logging.ERROR)  # it tells of every trial
