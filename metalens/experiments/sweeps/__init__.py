"""Sweeps: settings of a recipe and of its one arm, searched for by validation scores.

The test tasks are never drawn here. `Optuna <https://optuna.org>`_ proposes the settings and keeps the trials
in a SQLite database, on which any number of processes of one machine work.

Raises:
    MetaLensError: Optuna is not installed.
"""

from metalens.errors import MetaLensError

try:
    import optuna
except ImportError:
    raise MetaLensError("Sweeps need Optuna: pip install 'metalens[sweep]'.") from None

optuna.logging.set_verbosity(optuna.logging.ERROR)  # it logs every trial
