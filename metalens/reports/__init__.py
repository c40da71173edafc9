"""From the files of a finished run to intervals, figures, a report and a table for the terminal."""

from metalens.reports.formats import FORMATS
from metalens.reports.reading import read_metrics, read_results, read_together
from metalens.reports.run_report import write_report, write_table
from metalens.reports.sentences import (
    divergence_in_words,
    faults_in_words,
    lost_tasks_in_words,
    outcome,
    relations_in_words,
)
from metalens.reports.tables import results_table
from metalens.statistics.arms import arm_label
from metalens.statistics.comparisons import by_domain, paired_differences, summarize

__all__ = [
    "FORMATS",
    "arm_label",
    "by_domain",
    "divergence_in_words",
    "faults_in_words",
    "lost_tasks_in_words",
    "outcome",
    "paired_differences",
    "read_metrics",
    "read_results",
    "read_together",
    "relations_in_words",
    "results_table",
    "summarize",
    "write_report",
    "write_table",
]
