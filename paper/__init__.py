"""Studies: what the paper proposes or shows, each as one command with tidy rows, a figure and a report.

Importing this package registers the samplers of `paper.samplers`, so that text such as `--sampler ASr` can
name them. Register your own in the same way: `SAMPLERS["Mine"] = Mine`. The modules of the studies are
imported when a study is asked for: they draw, and what draws is slow to import.
"""

from metalens.specs.calls import SAMPLERS
from paper.catalogue import STUDIES, get_study
from paper.samplers import ATS, DPP, ASr

__all__ = ["STUDIES", "get_study"]

SAMPLERS.update(ASr=ASr, ATS=ATS, DPP=DPP)
