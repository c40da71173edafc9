"""Programs of adapted estimators: from the columns of a table, or images, to predictions in their units."""

import json
import warnings
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import torch

from metalens import MetaClassifier, MetaLensError, MetaRegressor
from metalens.data.tables.encoding import CategoryColumn, NumberColumn, TableInputs
from metalens.estimators.exporting import TableProgram
from metalens.estimators.models import Candidate
from tests.choosing import choosing

pytestmark = pytest.mark.usefixtures("few_draws")
SHOTS = (0, 3)  # for `few_draws`


def shops(n=30, rows=12, seed=0):
    """Sales by price, day and color, with a level for each shop; dates have large numbers."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"shop": np.repeat([f"s{i}" for i in range(n)], rows)})
    frame["price"] = rng.normal(1000, 20, n * rows)
    frame["color"] = rng.choice(["red", "green", "blue"], n * rows)
    frame["day"] = 20_000_000 + rng.integers(0, 30, n * rows)
    level = rng.normal(size=n).repeat(rows)
    frame["sales"] = 5000 - 30 * (frame.price - 1000) + 100 * level + 50 * (frame.color == "red")
    return frame.assign(sold=np.where(frame.sales > 5000, "much", "little"))


def fitted(kind, learner, target, baselines=(), frame=None, **roles):
    other = [{"sales": "sold", "sold": "sales"}[target]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind(learner, steps=3, hidden=(4,), k_shot=6, n_query=6, baselines=baselines, fallback=False)
        return model.fit(
            shops() if frame is None else frame, task="shop", target=target, exclude=other, **roles
        )


def columns_of(frame, names):
    """Return the numbers that a program reads, by the documented names of its inputs."""
    encoded = pd.get_dummies(frame, columns=["color"], prefix_sep="=").reindex(columns=names, fill_value=0)
    return encoded.to_numpy(dtype=np.float64)


def run_onnx(path, x):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    return session.run(None, {"x": x})[0], {name: json.loads(text) for name, text in facts.items()}


def run_program(path, x):
    facts = {"facts.json": ""}
    program = torch.export.load(path, extra_files=facts).module()
    return program(torch.from_numpy(x)).numpy(), json.loads(facts["facts.json"])


@pytest.fixture(scope="module")
def regressor():
    return fitted(MetaRegressor, "R2D2", "sales", ("Ridge", "JointModel"))


RUN = {"onnx": run_onnx, "pt2": run_program}


@pytest.mark.parametrize("ending", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_program_of_numbers_predicts_as_predict(regressor, ending, tmp_path):
    new = shops(1, 30, seed=1)
    adapted = choosing(regressor, R2D2=1.0).adapt(new[:8])
    adapted.export(tmp_path / f"sales.{ending}")
    x = columns_of(new[8:], ["price", "color=blue", "color=green", "color=red", "day"])
    found, facts = RUN[ending](tmp_path / f"sales.{ending}", x)
    expected = adapted.predict(new[8:])
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5)
    assert expected.std() > 10
    assert facts == {
        "inputs": ["price", "color=blue", "color=green", "color=red", "day"],
        "outputs": ["sales"],
        "model": "R2D2",
        "task": "s0",
        "metalens": version("metalens"),
    }
    assert [path.name for path in tmp_path.iterdir()] == [f"sales.{ending}"]


@pytest.mark.slow
@pytest.mark.parametrize("ending", RUN)
def test_program_of_shared_classes_predicts_probabilities(ending, tmp_path):
    model, new = fitted(MetaClassifier, None, "sold"), shops(1, 30, seed=1)
    adapted = model.adapt(new[:8])
    adapted.export(tmp_path / f"sold.{ending}")
    x = columns_of(new[8:], ["price", "color=blue", "color=green", "color=red", "day"])
    found, facts = RUN[ending](tmp_path / f"sold.{ending}", x)
    np.testing.assert_allclose(found, adapted.predict_proba(new[8:]), atol=1e-5)
    assert facts["outputs"] == adapted.classes_.tolist() == ["little", "much"]


def test_program_of_new_classes_of_images(tmp_path):
    from tests.test_estimators_classes import color_folders

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        color_folders(tmp_path / "images", [f"kind {i}" for i in range(12)])
        settings = {"steps": 1, "meta_batch_size": 1, "n_way": 2, "k_shot": 1, "n_query": 2, "baselines": ()}
        model = MetaClassifier(**settings, fallback=False).fit(tmp_path / "images", image_size=16)
        color_folders(tmp_path / "new", ["a", "b", "c"], seed=1)
    adapted = model.adapt(tmp_path / "new")
    adapted.export(tmp_path / "a.pt2")
    x = model.reader_.inputs(tmp_path / "new").numpy()
    found, facts = run_program(tmp_path / "a.pt2", x)
    np.testing.assert_allclose(found, adapted.predict_proba(tmp_path / "new"), atol=1e-5)
    assert facts["inputs"] == ["images with pixels in [-1, 1]"]
    assert facts["outputs"] == ["a", "b", "c"]


def test_a_mean_of_models_is_exported_if_all_its_parts_can_be(regressor, tmp_path):
    new = shops(1, 30, seed=1)
    adapted = choosing(regressor, R2D2=0.3, JointModel=0.7).adapt(new[:8])
    assert len(adapted._models.models) == 2
    adapted.export(tmp_path / "a.pt2")
    found, facts = run_program(
        tmp_path / "a.pt2", columns_of(new[8:], regressor_names := facts_names(adapted))
    )
    assert facts["inputs"] == regressor_names
    np.testing.assert_allclose(found.ravel(), adapted.predict(new[8:]), rtol=1e-5)


def facts_names(adapted):
    return TableProgram(adapted.estimator.reader_.encoding).names


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (
            {"Ridge": 1.0},
            "^Ridge cannot be exported: it is a model of scikit-learn .*set chosen_ .* to R2D2, and",
        ),
        (
            {"R2D2": 0.5, "Ridge": 0.5},
            "^.* cannot be exported, as Ridge is a part of it: it is .* to R2D2, and",
        ),
    ],
)
def test_the_part_that_cannot_be_exported_is_named(regressor, weights, words, tmp_path):
    adapted = choosing(regressor, **weights).adapt(shops(1, 8))
    with pytest.raises(MetaLensError, match=words):
        adapted.export(tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_missing_and_far_numbers_are_as_in_predict(missing, tmp_path):
    rng, frame = np.random.default_rng(0), shops()
    frame.loc[rng.choice(len(frame), 20), "price"] = np.nan
    model, new = fitted(MetaRegressor, "R2D2", "sales", frame=frame, missing=missing), shops(1, 30, seed=1)
    new.loc[12:14, "price"] = np.nan
    adapted = model.adapt(new[:8])
    adapted.export(tmp_path / "a.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = adapted.predict(new[8:])
    assert np.isnan(expected).sum() == (3 if missing == "drop" else 0)
    names = facts_names(adapted)
    assert "price is missing" not in names
    x = columns_of(new[8:], names)
    found, _ = run_program(tmp_path / "a.pt2", x)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5)
    x[0, 0] = 1e20  # refused by predict
    assert np.isnan(run_program(tmp_path / "a.pt2", x)[0][0]).all()


def test_encoding_is_that_of_tables():
    """Also of a column of numbers that is named as a category of another, and of fingerprints."""
    columns = (
        CategoryColumn("dye", ("blue", "red")),
        NumberColumn("dye=red", 5.0, 2.0, marks_missing=True),
        NumberColumn("b", -1.0, 0.5, marks_missing=False),
    )
    encoding = TableInputs(columns, missing="mean")
    frame = pd.DataFrame(
        {"dye": ["red", None, "green"], "dye=red": [1.0, np.nan, 4.0], "b": [np.nan, 2.0, 3.0]}
    )
    program = TableProgram(encoding)
    assert program.names == ["dye=blue", "dye=red", "dye=red", "b"]
    dyes = np.array([[0, 1], [0, 0], [0, 0]])
    x = torch.from_numpy(np.concatenate([dyes, frame[["dye=red", "b"]].to_numpy()], axis=1))
    inputs, usable = program(x)
    np.testing.assert_array_equal(inputs.numpy(), encoding.transform(frame))
    assert usable.all()
    with_bits = TableInputs(columns[2:], smiles="smiles", n_bits=3)
    assert TableProgram(with_bits).names == ["b", "smiles bit 0", "smiles bit 1", "smiles bit 2"]
    inputs, usable = TableProgram(with_bits)(torch.tensor([[1.0, 0, 1, 2], [torch.nan, 0, 0, 0]]).double())
    assert inputs[0].tolist() == [4.0, 0.0, 1.0, 2.0]
    assert usable.tolist() == [True, False]


def test_candidates_know_whether_they_can_be_exported(regressor):
    able = {c.name: c.can_be_exported for c in regressor._candidates(1)}
    assert able == {"R2D2": True, "Ridge": False, "JointModel": True}
    assert not Candidate.stack("mean", [(1.0, c) for c in regressor._candidates(1)]).can_be_exported


def test_files_with_another_ending_are_refused(regressor, tmp_path):
    adapted = choosing(regressor, R2D2=1.0).adapt(shops(1, 8))
    with pytest.raises(MetaLensError, match=r"a.pb must end in .onnx or .pt2, which says what to write"):
        adapted.export(tmp_path / "a.pb")
    assert not list(tmp_path.iterdir())
