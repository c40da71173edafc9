"""`metalens predict`, `evaluate` and `relations` of a trained model, and their mistakes."""

import numpy as np
import pandas as pd
import pytest
from own_data import TABLE, assays, call, done, files, refused, train_assays

from metalens.training.progress import StepBar

pytestmark = pytest.mark.filterwarnings("default")  # the command line shows warnings as notes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a table, and a model that was trained on it with a note on what was said."""
    folder = tmp_path_factory.mktemp("own")
    return folder, train_assays(folder)


@pytest.fixture
def here(trained, tmp_path):
    """An empty folder, and words for the model that was trained."""
    return tmp_path, ["predict", "--model", str(trained[0] / "model")]


def test_new_rows_are_predicted_with_intervals(here):
    folder, predict = here
    task = assays().query("assay == '003'").drop(columns=["assay", "kind"])
    task.head(6).to_csv(folder / "few.csv", index=False)
    new = task.tail(10).drop(columns="y").assign(well=[f"0{n}" for n in range(10)], mass="1.50")
    new.to_csv(folder / "new.csv", index=False)
    done(folder, *predict, "--support", "few.csv", "--query", "new.csv")
    written = pd.read_csv(folder / "predictions.csv", dtype=str)
    pd.testing.assert_frame_equal(written[list(new.columns)], pd.read_csv(folder / "new.csv", dtype=str))
    numbers = written[["lower", "prediction", "upper"]].astype(float)
    assert np.isfinite(numbers.to_numpy()).all()
    assert (numbers.lower < numbers.prediction).all()
    assert (numbers.prediction < numbers.upper).all()
    assert "predictions.csv exists already; choose another --out, or pass --overwrite" in refused(
        folder, *predict, "--support", "few.csv", "--query", "new.csv"
    )
    done(folder, *predict, "--support", "few.csv", "--query", "new.csv", "--overwrite")
    assert "--out must be the path of a table, ending in .csv, got new.csv.gz" in refused(
        folder, *predict, "--support", "few.csv", "--query", "new.csv", "--out", "new.csv.gz"
    )
    assert "new.csv is the support or the query" in refused(
        folder, *predict, "--support", "few.csv", "--query", "new.csv", "--out", "new.csv", "--overwrite"
    )


def test_each_task_is_predicted_by_its_own_support(here):
    folder, predict = here
    frame = assays().drop(columns="kind")
    few = frame.groupby("assay").head(6)
    new = frame.groupby("assay").tail(3).drop(columns="y").sample(frac=1, random_state=0)
    few[few.assay.isin(["001", "002", "003"])].to_csv(folder / "few.csv", index=False)
    two = new[new.assay.isin(["001", "003"])]
    two.to_csv(folder / "new.csv", index=False)
    said, _ = done(folder, *predict, "--support", "few.csv", "--query", "new.csv")
    assert "6 rows of 2 tasks" in said
    together = pd.read_csv(folder / "predictions.csv", dtype={"assay": str})
    for name in ("001", "003"):
        few[few.assay == name].to_csv(folder / "few1.csv", index=False)
        two[two.assay == name].to_csv(folder / "new1.csv", index=False)
        done(folder, *predict, "--support", "few1.csv", "--query", "new1.csv", "--out", f"{name}.csv")
        alone = pd.read_csv(folder / f"{name}.csv", dtype={"assay": str})
        pd.testing.assert_frame_equal(together[together.assay == name].reset_index(drop=True), alone)


def test_without_a_support_the_population_is_predicted(here):
    folder, predict = here
    assays().drop(columns=["y", "kind"]).head(20).to_csv(folder / "new.csv", index=False)
    said, _ = done(folder, *predict, "--query", "new.csv")
    assert "20 rows of 1 task, predicted by " in said
    written = pd.read_csv(folder / "predictions.csv")
    assert (written.lower < written.prediction).all()
    assert (written.prediction < written.upper).all()
    assert np.corrcoef(written.prediction, written.heat)[0, 1] > 0.6  # the slope that all tasks share


def test_a_small_support_has_wider_intervals_and_copies_are_counted(here):
    folder, predict = here
    task = assays().query("assay == '003'").drop(columns=["assay", "kind"])
    task.head(3).to_csv(folder / "new.csv", index=False)
    widths = {}
    for n in (2, 8):
        task.head(n).to_csv(folder / "few.csv", index=False)
        _, errors = done(folder, *predict, "--support", "few.csv", "--query", "new.csv", "--overwrite")
        assert f"{min(n, 3)} of the 3 query rows have the inputs of a support row" in errors
        written = pd.read_csv(folder / "predictions.csv")
        widths[n] = (written.upper - written.lower).mean()
    assert widths[8] < widths[2]


@pytest.mark.parametrize(
    ("few", "new", "words"),
    [
        (lambda f: f.drop(columns="y"), None, "few.csv: The table has no column y; it has assay, dose, heat"),
        (None, lambda n: n.drop(columns="heat"), "new.csv: The table has no column heat; it has assay, dose"),
        (None, lambda n: n.assign(dose="high"), "new.csv: Row 1 of column dose must be a number, got 'high'"),
        (lambda f: f.assign(heat=["?", *f.heat[1:]]), None, "few.csv: Row 1 of column heat must be a number"),
        (
            None,
            lambda n: n.assign(dose=np.inf),
            "Row 1 of column dose must be a finite number, got 'inf'",
        ),
        (None, lambda n: n.assign(heat=None), "new.csv: Row 1 of column heat is empty"),
        (lambda f: f.assign(y=""), None, "few.csv: Row 1 of column y is empty"),
        (lambda f: f[f.assay != "004"], None, "few.csv has no rows of 004, which new.csv asks for"),
        (
            None,
            lambda n: n.drop(columns="assay"),
            "has rows of 2 tasks by its column assay; add it to new.csv",
        ),
        (lambda f: f.drop(columns="assay"), None, "new.csv has rows of several tasks by its column assay"),
        (lambda f: f[:0], None, "few.csv has no rows"),
        (None, lambda n: n.assign(prediction=1), "new.csv has a column prediction already; rename it"),
        (None, lambda n: n.assign(assay=[None, *n.assay[1:]]), "Row 1 of column assay of new.csv is empty"),
    ],
)
def test_what_cannot_be_predicted_is_one_sentence(here, few, new, words):
    folder, predict = here
    frame = assays().query("assay in ['003', '004']").drop(columns="kind")
    rows = frame.groupby("assay").head(6)
    (few or (lambda f: f))(rows).to_csv(folder / "few.csv", index=False)
    rows = frame.groupby("assay").tail(3).drop(columns="y")
    (new or (lambda n: n))(rows).to_csv(folder / "new.csv", index=False)
    assert words in refused(folder, *predict, "--support", "few.csv", "--query", "new.csv")


@pytest.mark.slow
def test_a_trained_model_is_scored_and_relates_further_tasks(trained, tmp_path):
    assays(6).to_csv(tmp_path / "other.csv", index=False)
    model = str(trained[0] / "model")
    said, _ = done(tmp_path, "evaluate", "--model", model, "--data", "other.csv", "--out", "scores.csv")
    scores = pd.read_csv(tmp_path / "scores.csv", dtype={"task": str})
    assert scores.groupby("model").task.nunique().eq(6).all()
    assert "All 6 tasks by their r2" in " ".join(said.split())
    said, _ = done(tmp_path, "relations", model, "--data", "other.csv", "--out", "map")
    assert sorted(path.name for path in (tmp_path / "map").iterdir()) == ["other.csv", "other.png"]
    assert "Nearest tasks" in said
    said, _ = done(tmp_path, "relations", model, "--out", "map")
    assert (tmp_path / "map" / "held-out.csv").read_text() == (
        trained[0] / "model" / "relations.csv"
    ).read_text()
    assert "The table has no column assay" in refused(tmp_path, "evaluate", "--model", model, "--data",
                                                      str(trained[0] / "model" / "curve.csv"))  # fmt: skip
    assert "scores.csv exists already" in refused(
        tmp_path, "evaluate", "--model", model, "--data", "other.csv", "--out", "scores.csv"
    )
    assert "is no saved model" in refused(tmp_path, "evaluate", "--model", "map", "--data", "other.csv")


def test_an_interruption_leaves_nothing(tmp_path, here, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    assays().to_csv(tmp_path / "assays.csv", index=False)
    assays()[:5].to_csv(tmp_path / "few.csv", index=False)
    before = files(tmp_path)
    monkeypatch.setattr(StepBar, "__call__", interrupted)
    status, _, errors = call(tmp_path, "train", *TABLE)
    assert (status, errors.strip().splitlines()[-1]) == (130, "metalens: interrupted; nothing was written.")
    monkeypatch.setattr(pd.DataFrame, "to_csv", interrupted)
    status, _, errors = call(tmp_path, *here[1], "--support", "few.csv", "--query", "few.csv")
    assert (status, errors.strip().splitlines()[-1]) == (130, "metalens: interrupted; nothing was written.")
    assert files(tmp_path) == before


@pytest.mark.slow
def test_another_format_is_predicted_in_the_format_of_training(tmp_path):
    frame = assays(12, 12).drop(columns="kind")
    frame.to_csv(tmp_path / "assays.csv", index=False, sep=";", decimal=",")
    assert "Row 1 of column y must be a number" in refused(tmp_path, "train", *TABLE)
    done(tmp_path, "train", *TABLE, "--decimal", ",", "--baselines", "MeanPredictor")
    frame[:8].to_csv(tmp_path / "few.csv", index=False, sep=";", decimal=",")
    frame[8:12].to_csv(tmp_path / "new.csv", index=False, sep="\t", decimal=",")
    done(tmp_path, "predict", "--model", "model", "--support", "few.csv", "--query", "new.csv")
    written = pd.read_csv(tmp_path / "predictions.csv", dtype=str)
    assert written.y.tolist() == frame.y[8:12].map(lambda y: str(y).replace(".", ",")).tolist()
