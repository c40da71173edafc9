"""The command line on people's own data: train, predict, evaluate, relations, and their mistakes."""

import io
import json
import os
import signal
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from metalens.cli import main
from metalens.estimators.choice import Choice
from metalens.estimators.report import best_and_worst, read_model_folder
from metalens.estimators.wording import choice_in_words
from metalens.training.progress import StepBar

QUICK = ["--steps", "2", "--meta_batch_size", "2", "--baselines", "MeanPredictor", "KNN"]
FEW = ["--baselines", "ProfileRidge", "JointModel", "MeanPredictor", "Ridge"]
TABLE = ["--data", "assays.csv", "--task", "assay", "--target", "y", "--k_shot", "4", *QUICK, *FEW]
FILES = [
    "README.md", "comparison.csv", "curve.csv", "figures", "importance.csv", "model.json", "predictions.csv",
    "relations.csv", "report.html", "training.json", "weights.safetensors",
]  # fmt: skip

pytestmark = pytest.mark.filterwarnings("default")  # the command line shows warnings as notes


def call(folder, *words):
    """Run the command line in a folder, and return its status, its output and its errors."""
    before, on_term = warnings.showwarning, signal.getsignal(signal.SIGTERM)
    said, errors = io.StringIO(), io.StringIO()
    with chdir(folder), redirect_stdout(said), redirect_stderr(errors), warnings.catch_warnings():
        os.environ["METALENS_CACHE"] = str(folder / ".cache")
        warnings.simplefilter("default")  # they are notes for the user, as in a process of its own
        try:
            main(words)
            status = 0
        except SystemExit as ended:
            status = ended.code
        finally:
            warnings.showwarning = before
            signal.signal(signal.SIGTERM, on_term)
    return status, said.getvalue(), errors.getvalue()


def done(folder, *words):
    status, said, errors = call(folder, *words)
    assert status == 0, errors
    return said, errors


def files(folder):
    return sorted(path for path in folder.rglob("*") if ".cache" not in path.parts)


def refused(folder, *words):
    """Return the one sentence by which a mistake is told, and assert that no file has come or gone."""
    before = files(folder)
    status, _, errors = call(folder, *words)
    assert status == 2, errors
    assert "Traceback" not in errors
    *notes, sentence = errors.strip().splitlines()
    assert all(note.startswith("metalens: note: ") for note in notes)
    assert files(folder) == before
    return sentence


def assays(n_tasks=30, rows=16):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (n_tasks * rows, 2)).round(3)
    slope = np.repeat(rng.normal(size=n_tasks), rows)
    frame = pd.DataFrame({"assay": np.repeat([f"00{number}" for number in range(n_tasks)], rows)})
    frame = frame.assign(dose=x[:, 0], heat=x[:, 1], y=(slope * x[:, 0] + x[:, 1]).round(3))
    return frame.assign(kind=np.where(frame.y > 0, "high", "low"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a table, and a model that was trained on it with a note on what was said."""
    folder = tmp_path_factory.mktemp("own")
    assays().drop(columns="kind").to_csv(folder / "assays.csv", index=False)
    said, notes = done(folder, "train", *TABLE, "--splits", "0.4", "0.2", "0.4")
    assert "does not beat" not in notes  # what is printed says so
    return folder, said


@pytest.fixture
def here(trained, tmp_path):
    """An empty folder, and words for the model that was trained."""
    return tmp_path, ["predict", "--model", str(trained[0] / "model")]


def test_a_model_is_trained_and_says_what_was_chosen(trained):
    folder, said = trained
    assert sorted(path.name for path in folder.iterdir() if path.name != ".cache") == ["assays.csv", "model"]
    assert sorted(path.name for path in (folder / "model").iterdir()) == FILES
    found = read_model_folder(folder / "model")
    chosen = found.choices[found.training["k_shot"]].model
    assert " ".join(said.split()).count("adapts to new tasks") == 1
    assert (
        "A weighted mean of models" if chosen == "Stacked" else chosen
    ) + " adapts to new tasks" in " ".join(said.split())
    assert "Next: metalens predict --model model --support few.csv --query new.csv" in said
    assert f"Report: {folder / 'model' / 'report.html'}" in said.replace("\n", "")


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
def test_arrays_are_trained_on_and_predicted(tmp_path):
    frame = assays()
    arrays = {
        "x": frame[["dose", "heat"]].to_numpy(np.float32),
        "y": frame.y,
        "task": frame.assay.to_numpy(str),
    }

    def save(name, rows, *names):
        np.savez(tmp_path / name, **{key: np.asarray(arrays[key])[rows] for key in names})

    save("train.npz", slice(0, 400), "x", "y", "task")
    save("few.npz", slice(400, 406), "x", "y", "task")
    save("new.npz", slice(406, 416), "x")
    said, _ = done(tmp_path, "train", "--data", "train.npz", "--task", "task", "--target", "y", *QUICK)
    assert "--support few.npz --query new.npz" in said
    done(tmp_path, "predict", "--model", "model", "--support", "few.npz", "--query", "new.npz")
    written = pd.read_csv(tmp_path / "predictions.csv")
    assert written.columns.tolist()[:3] == ["x 0", "x 1", "prediction"]
    np.testing.assert_allclose(written[["x 0", "x 1"]], arrays["x"][406:416], rtol=1e-5)
    assert np.isfinite(written.prediction).all()
    np.savez(
        tmp_path / "spectra.npz", x=np.zeros((400, 2, 8)), y=arrays["y"][:400], task=arrays["task"][:400]
    )
    words = ["train", "--data", "spectra.npz", "--task", "task", "--target", "y", "--out", "other"]
    assert "Array x must have one or two axes, got (400, 2, 8)" in refused(tmp_path, *words)


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


@pytest.mark.slow
def test_words_are_classes_with_probabilities(tmp_path):
    frame = assays().drop(columns="y")
    frame.to_csv(tmp_path / "assays.csv", index=False)
    done(
        tmp_path,
        "train",
        "--data",
        "assays.csv",
        "--task",
        "assay",
        "--target",
        "kind",
        "--k_shot",
        "6",
        *QUICK,
    )
    frame[:8].to_csv(tmp_path / "few.csv", index=False)
    frame[8:16].drop(columns="kind").to_csv(tmp_path / "new.csv", index=False)
    done(tmp_path, "predict", "--model", "model", "--support", "few.csv", "--query", "new.csv")
    written = pd.read_csv(tmp_path / "predictions.csv")
    chances = written[["probability of high", "probability of low"]].to_numpy()
    np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-5)
    assert (written.prediction == np.where(chances[:, 0] >= chances[:, 1], "high", "low")).all()


def image(path, color):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(abs(hash(path.name)) % 100).integers(0, 60, (8, 8, 3))
    Image.fromarray((noise + color).astype(np.uint8)).save(path)


@pytest.mark.slow
def test_folders_of_images_are_trained_on_and_predicted(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abcdefghijkl":
        color = rng.integers(0, 190, 3)
        for number in range(6):
            image(tmp_path / "birds" / name / f"{number}.png", color)
    sizes = ["--n_way", "2", "--k_shot", "2", "--n_query", "2", "--image_size", "16"]
    splits = ["--splits", "0.5", "0.25", "0.25"]
    done(tmp_path, "train", "--data", "birds", *sizes, *splits, *QUICK)
    page = (tmp_path / "model" / "report.html").read_text()
    assert "Classes of birds" in page
    assert "metalens predict --model model --support few --query new" in page
    for name, color in (("wren", 20), ("crow", 180)):
        for number in range(3):
            image(tmp_path / "few" / name / f"{name}{number}.png", color)
        image(tmp_path / "new" / f"{name}9.png", color)
    done(tmp_path, "predict", "--model", "model", "--support", "few", "--query", "new")
    written = pd.read_csv(tmp_path / "predictions.csv")
    assert written.image.tolist() == ["crow9.png", "wren9.png"]
    assert set(written.prediction) <= {"wren", "crow"}
    (tmp_path / "few" / "crow" / "crow1.png").write_bytes(b"no image")
    assert "crow/crow1.png in few cannot be read as an image" in refused(
        tmp_path, "predict", "--model", "model", "--support", "few", "--query", "new", "--out", "again.csv"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data", "none.csv"], "There is no file or folder none.csv; correct --data"),
        (["--data", "assays.csv"], "assays.csv is a table, so --target must name the column to predict"),
        (["--data", "assays.csv", "--target", "y"], "give --task, the column that names them"),
        (["--data", "assays.csv", "--target", "z", "--task", "assay"], "The table has no column z"),
        (["--data", "assays.csv", "--target", "y", "--task", "lab"], "The table has no column lab"),
        (["--data", "latin.csv", "--target", "y", "--task", "assay"], "latin.csv: Line 2 is not in UTF-8"),
        (["--data", "empty.csv", "--target", "y", "--task", "assay"], "empty.csv is empty; give a CSV file"),
        (
            ["--data", "other.csv", "--target", "y", "--task", "assay"],
            "Row 3 of column dose must be a number",
        ),
        (
            ["--data", "above.csv", "--target", "y", "--task", "assay"],
            "above.csv: Row 1 of column y must be a number, got '>",
        ),
        (["--data", "images", "--task", "assay"], "Images need no --task; leave it out"),
        (["--data", "images"], "images has no images; it must hold class folders"),
        ([*TABLE, "--splits", "1", "x", "2"], "--splits must be a column, or three shares"),
        ([*TABLE, "--learner", "MAGIC"], "MAGIC"),
        ([*TABLE, "--out", "assays.csv"], "assays.csv exists already; choose another --out"),
        ([*TABLE, "--k_shot", "40"], "none has k_shot + n_query = 41 rows; lower them"),
    ],
)
def test_mistakes_in_training_are_one_sentence_and_leave_nothing(tmp_path, words, sentence):
    frame = assays(10, 8)
    frame.to_csv(tmp_path / "assays.csv", index=False)
    frame.astype({"dose": object}).replace({"dose": {frame.dose[2]: "n/b"}}).to_csv(
        tmp_path / "other.csv", index=False
    )
    frame.assign(y=[f">{value}" for value in frame.y]).to_csv(tmp_path / "above.csv", index=False)
    (tmp_path / "latin.csv").write_bytes("assay,y\nKöln,1\n".encode("latin-1"))
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "images").mkdir()
    assert sentence in refused(tmp_path, "train", *words)


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


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        ([0, 1], "holds 2 different whole numbers, 0, 1, which are predicted as classes"),
        (["0", "1.0"], "holds 2 different whole numbers, 0, 1, which are predicted as classes"),
        ([1, 2], "holds 2 different whole numbers, 1, 2, which are predicted as classes"),
        (["TRUE", "FALSE"], None),
        (["None", "Severe"], "Column y says 'None'"),
    ],
)
@pytest.mark.slow
def test_two_values_are_classes_unless_the_kind_says_otherwise(tmp_path, labels, note):
    frame = assays(12, 12).drop(columns="kind")
    frame["y"] = np.where(frame.y > 0, labels[1], labels[0])
    frame.to_csv(tmp_path / "assays.csv", index=False)
    _, notes = done(tmp_path, "train", *TABLE, "--baselines", "MeanPredictor")
    assert note is None or note in notes
    frame[:8].to_csv(tmp_path / "few.csv", index=False)
    frame[8:12].drop(columns="y").to_csv(tmp_path / "new.csv", index=False)
    done(tmp_path, "predict", "--model", "model", "--support", "few.csv", "--query", "new.csv")
    written = pd.read_csv(tmp_path / "predictions.csv")
    assert written.filter(like="probability of").shape == (4, 2)
    if isinstance(labels[0], int):
        done(tmp_path, "train", *TABLE, "--overwrite", "--kind", "regression", "--baselines", "MeanPredictor")
        assert json.loads((tmp_path / "model" / "model.json").read_text())["kind"] == "MetaRegressor"


@pytest.mark.slow
def test_rows_that_cannot_be_used_are_left_out_by_every_command(tmp_path):
    frame = assays(12, 12).drop(columns="kind")
    for place, column in ((3, "dose"), (5, "y"), (40, "heat")):
        frame.loc[frame.index % 48 == place, column] = np.nan
    frame.to_csv(tmp_path / "assays.csv", index=False)
    _, notes = done(tmp_path, "train", *TABLE, "--missing", "drop", "--baselines", "MeanPredictor")
    assert "9 of the 144 rows have an empty cell (y 3, dose 3, heat 3) and are left out" in notes
    frame[:48].to_csv(tmp_path / "some.csv", index=False)
    for words in (["evaluate", "--model", "model", "--data", "some.csv"],
                  ["relations", "model", "--data", "some.csv"]):  # fmt: skip
        _, notes = done(tmp_path, *words)
        assert "3 of the 48 rows have an empty cell (y 1, dose 1, heat 1) and are left out" in notes
    frame[48:60].drop(columns=["y", "assay"]).to_csv(tmp_path / "new.csv", index=False)
    frame[12:24].to_csv(tmp_path / "few.csv", index=False)
    _, notes = done(tmp_path, "predict", "--model", "model", "--support", "few.csv", "--query", "new.csv")
    assert "1 of the 12 rows have an empty cell (dose 1) and are predicted as missing" in notes
    written = pd.read_csv(tmp_path / "predictions.csv")
    assert written.prediction.isna().tolist() == [row == 3 for row in range(12)]


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
