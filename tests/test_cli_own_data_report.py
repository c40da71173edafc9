"""The report of `metalens train`."""

import pandas as pd
import pytest
from own_data import done, train_assays

from metalens.estimators.choice import Choice
from metalens.estimators.report import best_and_worst, choice_in_words, read_model_folder

pytestmark = pytest.mark.filterwarnings("default")  # the command line shows warnings as notes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a table, and a model that was trained on it with a note on what was said."""
    folder = tmp_path_factory.mktemp("own")
    return folder, train_assays(folder)


def test_the_report_holds_all_that_was_found(trained):
    folder, _ = trained
    page = (folder / "model" / "report.html").read_text()
    comparison = pd.read_csv(folder / "model" / "comparison.csv", dtype={"task": str})
    found = read_model_folder(folder / "model")
    sentences = choice_in_words(found.choices[found.training["k_shot"]], comparison)
    for place, sentence in enumerate(sentences):
        assert sentence.replace("'", "&#39;") in page.split("</section>")[0], place
    for model in comparison.model.unique():
        assert model in page
    assert {f"figures/{path.name}" for path in (folder / "model" / "figures").glob("*.svg")} == {
        f"figures/{name}.svg"
        for name in (
            "differences",
            "importance",
            "learning-curves",
            "predicted",
            "relations",
            "residuals",
            "support-rows",
            "tasks",
        )
    }
    for words in (
        "metalens evaluate --model model",
        "train --data assays.csv",
        "Best and worst tasks",
        "y by assay",
    ):
        assert words in page
    related = pd.read_csv(folder / "model" / "relations.csv", dtype=str)
    assert set(related.task) == set(comparison.task)


@pytest.mark.slow
def test_the_report_is_written_anew_from_the_files(trained):
    folder, _ = trained
    page = (folder / "model" / "report.html").read_bytes()
    said, _ = done(folder, "report", "model")
    assert "adapts to new tasks" in " ".join(said.split())
    assert (folder / "model" / "report.html").read_bytes() == page


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("Ridge", "a baseline: on 30 held-out tasks the meta-learner ANIL does not beat it (mean mse 1.95"),
        ("ANIL", "its mean mse is 1.950, against 1.700 of Ridge, the best baseline."),
        ("Stacked", "A weighted mean of models adapts to new tasks: Ridge 75%, ANIL 25%. On 30 held-out"),
    ],
)
def test_the_first_sentence_says_what_adapts(model, words):
    errors = {"ANIL": 0.5, "MeanPredictor": 2.0, "Ridge": 0.25, "Stacked": 0.2}
    rows = [
        (name, f"a{task}", metric, error + task / 10)
        for metric in ("mse", "rmse")
        for name, error in errors.items()
        for task in range(30)
    ]
    comparison = pd.DataFrame(rows, columns=["model", "task", "metric", "value"])
    means = {name: error + 1.45 for name, error in errors.items()}
    weights = {"ANIL": 0.25, "Ridge": 0.75, "MeanPredictor": 0.001} if model == "Stacked" else {model: 1.0}
    choice = Choice(model, "mse", weights, means, 1.8, 30, [])
    first, nested, third = choice_in_words(choice, comparison)
    assert words in first
    assert "has the mean mse 1.800" in nested
    other, difference = ("Stacked", "0.3") if model == "Stacked" else ("Ridge", "0.25")
    assert f"{other} has a lower mse than ANIL by {difference}" in third
    few = choice._replace(n_tasks=2)
    assert choice_in_words(few, comparison)[-1].startswith("With only 2 held-out tasks")


def test_the_best_and_worst_tasks_are_shown():
    rows = [
        (model, f"t{n}", "pearson_r2", n / 30 + gain)
        for n in range(30)
        for model, gain in (("A", 0.0), ("B", 1.0))
    ]
    comparison = pd.DataFrame(rows, columns=["model", "task", "metric", "value"])
    names, shown, note = best_and_worst(comparison, "B")
    assert names == ["B", "A"]
    assert [name for name, _ in shown] == ["t29", "t28", "t27", "t26", "t25", "t4", "t3", "t2", "t1", "t0"]
    assert shown[0][1] == ["1.97", "0.967"]
    assert "The 5 best and the 5 worst of 30" in note
