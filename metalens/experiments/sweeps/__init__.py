"""Sweeps: search for settings of a recipe and of its one arm by validation scores; no test task is drawn.

`Optuna <https://optuna.org>`_ proposes the settings and keeps the trials in a SQLite database, which any
number of processes on one machine share.
"""

from metalens.errors import extra

with extra("sweep"):
    import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)  # it logs every trial
