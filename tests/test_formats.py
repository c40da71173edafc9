"""Results as Markdown, LaTeX and CSV."""

import io
import re

import numpy as np
import pandas as pd
import pytest

from metalens.reports.formats import as_csv, as_latex, as_markdown, escaped
from metalens.statistics.arms import ARM

NASTY = r"A_1 & B {50%} $x^2$ #3 ~ \end{tabular} [x] | <br>" + "\n"


def results(n_arms=3, metrics=("accuracy", "cross_entropy")):
    rng = np.random.default_rng(0)
    names = ["MAML", NASTY, "MAML(inner_lr=0.1)"][:n_arms]
    rows = [
        (name, "none" if number < 2 else "MetaMix(beta_a=2)", "Uniform", seed, task, metric, value)
        for number, name in enumerate(names)
        for metric in metrics
        for (seed, task), value in np.ndenumerate(rng.normal(0.6 + 0.1 * (number == 1), 0.02, (5, 8)))
    ]
    return pd.DataFrame(rows, columns=[*ARM, "seed", "task", "metric", "value"])


def cells(line):
    return len(re.findall(r"(?<!\\)&", line)) + 1


@pytest.mark.parametrize("n_arms", [1, 3])
def test_latex_is_well_formed(n_arms):
    text = as_latex(results(n_arms))
    assert text.isascii()
    bare = re.sub(r"\\[\\{}$&#%_]", "", text)  # what is left are those that mean something
    depth = np.cumsum([(letter == "{") - (letter == "}") for letter in bare])
    assert depth.min() == 0
    assert depth[-1] == 0
    assert re.findall(r"\\(?:begin|end)\{(\w+)\}", text) == ["table", "tabular", "tabular", "table"]
    assert not re.search(r"[#~]|\^(?!\\dagger)|(?<!\$)_|^(?!% ).*%", bare, re.MULTILINE)
    assert all(line.count("$") % 2 == 0 for line in bare.splitlines())
    kinds = re.search(r"\\begin\{tabular\}\{(\w+)\}", text).group(1)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + 2 * (1 + n_arms)
    for row in rows:
        assert cells(row) == (1 if row.startswith(rf"\multicolumn{{{len(kinds)}}}{{l}}") else len(kinds))
        assert not row.startswith(("[", "*"))
    assert [rf"\{name}rule" in text for name in ("top", "mid", "bottom")] == [True] * 3


def test_latex_marks_the_best_and_what_does_not_differ():
    lines = as_latex(results(metrics=("accuracy",))).splitlines()
    base, best, equal = (line for line in lines if line.startswith(("MAML", "A\\_1")))
    assert r"\textbf{7" in best
    assert "dagger" not in base + best
    assert r"$^\dagger$" in equal
    assert r"MAML(inner\_lr=0.1) + MetaMix(beta\_a=2) & 6" in equal
    assert r"to MAML; p is corrected" in lines[-2]


def test_latex_prints_any_name_as_it_is():
    assert escaped("[a]*−∞") == r"{[}a{]}{*}$-$$\infty$"
    assert escaped(r"\&{}") == r"\textbackslash{}\&\{\}"


def test_markdown_has_a_table_for_every_metric():
    text = as_markdown(results())
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert [len(table) for table in tables] == [5, 5]
    for line in (line for table in tables for line in table):
        assert len(re.findall(r"(?<!\\)\|", line)) == 9
    assert "| **" in tables[0][3]
    assert "no significant difference" in tables[0][4]
    assert text.startswith("On 5 paired seeds × 8 test tasks, ")


def test_csv_has_the_numbers_in_full():
    table = pd.read_csv(io.StringIO(as_csv(results())))
    assert len(table) == 6
    assert table["learner"].tolist()[2] == NASTY
    mean = results().query("learner == 'MAML' and metric == 'accuracy'")["value"].mean()
    assert table["mean"][0] == pytest.approx(mean, rel=1e-14)
    assert table["p_holm"].isna().tolist() == [True, True, False, False, False, False]
