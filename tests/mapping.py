"""How an objective maps its tasks, for tests that make no training."""

from metalens import Objective
from metalens.batching import Batching


def mapped(objective: Objective, batching: Batching = "auto", chunk: int | None = None) -> Objective:
    """Return the objective, which maps its tasks so from now on."""
    objective.batching, objective.chunk = batching, chunk
    return objective
