"""Task samplers: one method, one file, one citation."""

from metalens.samplers.base import CandidateSampler, Choice, TaskSampler
from metalens.samplers.contrib.asr import ASr
from metalens.samplers.contrib.ats import ATS
from metalens.samplers.contrib.dpp import DPP
from metalens.samplers.hard_mining import HardMining
from metalens.samplers.related import Related
from metalens.samplers.uniform import Uniform

__all__ = [
    "ATS",
    "DPP",
    "ASr",
    "CandidateSampler",
    "Choice",
    "HardMining",
    "Related",
    "TaskSampler",
    "Uniform",
]
