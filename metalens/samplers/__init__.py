"""Task samplers: one method, one file, one citation."""

from metalens.samplers.base import CandidateSampler, Choice, TaskSampler
from metalens.samplers.hard_mining import HardMining
from metalens.samplers.related import Related
from metalens.samplers.uniform import Uniform

__all__ = ["CandidateSampler", "Choice", "HardMining", "Related", "TaskSampler", "Uniform"]
