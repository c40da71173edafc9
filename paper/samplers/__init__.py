"""Samplers of the study `trlearner-sampler`: at 8 to 22 times the time of `Uniform`, none beats it."""

from paper.samplers.asr import ASr
from paper.samplers.ats import ATS
from paper.samplers.dpp import DPP

__all__ = ["ATS", "DPP", "ASr"]
