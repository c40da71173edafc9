"""The results of a run as Markdown, LaTeX and CSV."""

from collections.abc import Callable, Iterable

import pandas as pd

from metalens.reports.sentences import few_seeds_in_words, outcome, size_in_words
from metalens.reports.tables import table_rows
from metalens.statistics.arms import ARM, arm_label
from metalens.statistics.comparisons import paired_differences, summarize
from metalens.statistics.numbers import metric_title

CELLS = ("arm", "mean", "interval", "rank", "difference", "difference_interval", "p_holm", "verdict")
# After \\, LaTeX takes a bracket or star for an argument.
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "[": "{[}",
    "]": "{]}", "*": "{*}", "−": "$-$", "∞": r"$\infty$", "×": r"$\times$", '"': r"\textquotedbl{}",
    "\n": " ",
}  # fmt: skip


def as_csv(results: pd.DataFrame) -> str:
    """Return `summarize` and `paired_differences` side by side, in full precision."""
    summary, paired = summarize(results), paired_differences(results)
    paired = paired.drop(columns=["n_seeds", "n_tasks"])
    both = summary.merge(paired, on=[*ARM, "metric"], how="left", suffixes=("", "_difference"))
    return both.to_csv(index=False)


def as_markdown(results: pd.DataFrame) -> str:
    """Return sentences on the outcome and a table for each metric.

    >>> results = pd.DataFrame({"learner": "A|B", "regularizers": "none", "sampler": "Uniform",
    ...                         "seed": 0, "task": [0, 1], "metric": "mse", "value": [1.0, 3.0]})
    >>> print(as_markdown(results).splitlines()[-1])
    | A\\|B | 2 | [−11, 15] |
    """
    summary, paired = summarize(results), paired_differences(results)
    lines = [*outcome(summary, paired), *few_seeds_in_words(summary)]
    for metric in summary["metric"].unique():
        title = metric_title(metric)
        names = ["arm", "mean", "95% interval"]
        if not paired.empty:
            names += ["rank", f"difference to {_baseline(summary)}", "95% interval", "p (Holm)", "verdict"]
        lines += ["", f"**{title[0].upper()}{title[1:]}**", "", piped(names), piped(["---"] * len(names))]
        for row in table_rows(summary, paired, metric):
            cells = [row[name] for name in CELLS[: len(names)]]
            if row["best"]:
                cells[1] = f"**{cells[1]}**"
            lines.append(piped(cells))
    return "\n".join(lines) + "\n"


def as_latex(results: pd.DataFrame) -> str:
    r"""Return a table with the rules of the package booktabs.

    >>> results = pd.DataFrame({"learner": "A_1", "regularizers": "none", "sampler": "Uniform",
    ...                         "seed": 0, "task": [0, 1], "metric": "mse", "value": [1.0, 3.0]})
    >>> print(as_latex(results).splitlines()[8].strip())
    A\_1 & 2 & {[}$-$11, 15{]} \\
    """
    summary, paired = summarize(results), paired_differences(results)
    columns, mark = ["", "mean", "95% interval"], ""
    caption = f"Mean with 95% interval on {size_in_words(summary.iloc[0])}."
    if not paired.empty:
        columns += ["rank", "difference", "95% interval", "p"]
        caption += f" Bold: the best mean. Differences are paired and to {_baseline(summary)}; p is corrected"
        caption += " for the number of arms (Holm)."
        mark = r" $^\dagger$: no significant difference."
    kinds = "l" + "".join("l" if name == "95% interval" else "r" for name in columns[1:])
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering"]
    lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", latex_row(map(escaped, columns))]
    for metric in summary["metric"].unique():
        title = escaped(metric_title(metric))
        lines += [r"\midrule", rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{title}}}}} \\"]
        for row in table_rows(summary, paired, metric):
            cells = [escaped(row[name]) for name in CELLS[: len(columns)]]
            if row["best"]:
                cells[1] = rf"\textbf{{{cells[1]}}}"
            if row["verdict"] == "no significant difference":
                cells[4] += r"$^\dagger$"
            lines.append(latex_row(cells))
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{escaped(caption)}{mark}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, tuple[str, Callable[[pd.DataFrame], str]]] = {
    "md": ("report.md", as_markdown),
    "latex": ("report.tex", as_latex),
    "csv": ("summary.csv", as_csv),
}


def escaped(text: str) -> str:
    r"""Escape the special characters of LaTeX.

    >>> escaped("MetaMix(beta_a=2) 95% <0.001 \\")
    'MetaMix(beta\\_a=2) 95\\% $<$0.001 \\textbackslash{}'
    """
    return "".join(_LATEX.get(letter, letter) for letter in text)


def latex_row(cells: Iterable[str]) -> str:
    """Return a row of a table in LaTeX."""
    return " & ".join(cells) + r" \\"


def piped(cells: list[str]) -> str:
    """Return a row of a table in Markdown."""
    return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"


def _baseline(summary: pd.DataFrame) -> str:
    return arm_label(*summary.iloc[0][ARM])
