"""Studies: what the paper proposes or shows, each as one command with tidy rows, a figure and a report.

Nothing but names and descriptions is imported at first: a study draws, and what draws is slow to import.
"""

from paper.catalogue import STUDIES, get_study

__all__ = ["STUDIES", "get_study"]
