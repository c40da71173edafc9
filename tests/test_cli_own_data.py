"""`metalens train` on people's own data, and its mistakes."""

import json

import numpy as np
import pandas as pd
import pytest
from own_data import FILES, QUICK, TABLE, assays, done, image, refused, train_assays

from metalens.estimators.report import read_model_folder

pytestmark = pytest.mark.filterwarnings("default")  # the command line shows warnings as notes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a table, and a model that was trained on it with a note on what was said."""
    folder = tmp_path_factory.mktemp("own")
    return folder, train_assays(folder)


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
