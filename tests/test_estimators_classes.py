"""Classification estimators: shared classes, new classes of tables, and images."""

import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from metalens import Examples, MetaClassifier, MetaLensError
from metalens.data.tables.columns import Columns
from metalens.data.tables.division import Division
from metalens.estimators import draws, load_model
from metalens.estimators.episodes import episode_sizes, fit_episodes
from metalens.estimators.images import class_counts
from tests.choosing import choosing

TINY = {"hidden": (8,), "steps": 2, "meta_batch_size": 2}


def fitted(data, roles, **settings):
    shared = "task" in roles and not roles.get("new_classes")
    across_tasks = ("ProfileRidge", "JointModel") if shared else ("NearestFeatureMean", "LinearProbe")
    settings.setdefault("baselines", (*across_tasks, "MeanPredictor", "NearestCentroid"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the fall-back, and of what is left out
        return MetaClassifier(**{**TINY, **settings}).fit(data, **roles)


def assays(n=20, rows=12, seed=0, words=("inactive", "active")):
    """Each task has a direction of its own that tells two classes apart; all have the same two."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n * rows, 2))
    direction = rng.normal(size=(n, 2)).repeat(rows, axis=0)
    outcome = np.array(words)[((x * direction).sum(1) > 0).astype(int)]
    return pd.DataFrame({"assay": np.arange(n).repeat(rows), "u": x[:, 0], "v": x[:, 1], "outcome": outcome})


def species(names, rows=8, seed=0):
    """Clusters far apart, in mixed order."""
    rng = np.random.default_rng(seed)
    parts = [
        pd.DataFrame(rng.normal(size=2) * 20 + rng.normal(size=(rows, 2)), columns=["u", "v"]).assign(
            name=name
        )
        for name in names
    ]
    frame = pd.concat(parts, ignore_index=True).assign(name=np.repeat(list(names), rows))
    return frame.sample(frac=1, random_state=seed, ignore_index=True)


def color_folders(folder, classes, images=6, seed=0):
    """Class folders with noisy images of a color each."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        color = rng.integers(0, 256, 3)
        for number in range(images):
            pixels = np.clip(color + rng.normal(0, 10, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch, tmp_path):
    monkeypatch.setattr(draws, "MIN_DRAWS", 3)
    monkeypatch.setattr(draws, "SHOTS", ())
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path / "cache"))


SHARED = {"task": "assay", "target": "outcome"}


@pytest.mark.parametrize("words", [("inactive", "active"), (0, 7), (False, True)])
def test_shared_classes_come_back_as_they_were_written(words):
    model = fitted(assays(words=words), SHARED)
    adapted = model.adapt(assays(1, words=words))
    new = assays(1, seed=1, words=words)
    assert adapted.classes_.tolist() == sorted(words)
    assert set(adapted.predict(new).tolist()) <= set(words)
    probabilities = adapted.predict_proba(new)
    assert probabilities.shape == (12, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(adapted.classes_[probabilities.argmax(1)], adapted.predict(new))


def test_a_support_may_lack_a_shared_class_and_not_have_another():
    model = fitted(assays(), SHARED)
    active = assays(1).query("outcome == 'active'")
    assert model.adapt(active).predict_proba(assays(1)).shape == (12, 2)
    with pytest.raises(MetaLensError, match=r"Row \d+ of column outcome must be one of the classes active"):
        model.adapt(active.assign(outcome="toxic"))
    with pytest.raises(MetaLensError, match="must be one of the classes"):
        model.evaluate(assays().assign(outcome="toxic"))


def test_without_rows_the_population_of_shared_classes_is_predicted():
    model = fitted(assays(), SHARED, learner="R2D2", fallback=False)
    chances = model.adapt().predict_proba(assays(1))
    assert chances.shape == (12, 2)
    np.testing.assert_allclose(chances.sum(1), 1)
    with pytest.raises(MetaLensError, match="The classes of a new task are new, so give support"):
        fitted(species([f"kind {i}" for i in range(20)]), {"target": "name"}).adapt()


@pytest.mark.filterwarnings("ignore:In 8 of the 8 tasks")
def test_new_tables_are_scored_with_the_classes_of_the_model():
    model = fitted(assays(words=("b", "c")), SHARED)
    model = choosing(model, MeanPredictor=1.0)
    new = assays(8, seed=1, words=("b", "c"))
    # Of a class that comes second in the model, and would come first in this table by itself.
    assert model.score(new.assign(outcome="c")) == 1


@pytest.mark.parametrize("learner", ["ProtoNet", "ProtoMAML"])
def test_prototypes_where_some_supports_lack_a_class(learner):
    frame = assays()
    frame.loc[(frame.assay % 2 == 0) & (frame.groupby("assay").cumcount() > 0), "outcome"] = "active"
    model = fitted(frame, SHARED, learner=learner, fallback=False)
    assert np.isfinite(model.curve_.value).all()
    assert np.isfinite(model.comparison_.value).all()
    known = assays(1).query("outcome == 'active'")
    said = model.adapt(known).predict(assays(1, seed=3))
    assert set(said) <= ({"active"} if learner == "ProtoNet" else {"active", "inactive"})


@pytest.mark.parametrize("names", [["oak", "elm"], ["oak", "elm", "fir", "yew", "ash", "bay", "box"]])
def test_new_classes_in_any_number_are_told_apart(names):
    model = fitted(species([f"kind {i}" for i in range(20)]), {"target": "name"}, steps=60)
    support, new = species(names, seed=1), species(names, seed=1, rows=16)
    adapted = model.adapt(support)
    assert adapted.classes_.tolist() == sorted(names)
    assert adapted.predict_proba(new).shape == (16 * len(names), len(names))
    assert adapted.predict(support).tolist() == support.name.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["LinearProbe", "NearestFeatureMean"])
def test_a_network_that_knows_all_training_classes_serves_new_ones(chosen, tmp_path):
    model = fitted(species([f"kind {i}" for i in range(20)]), {"target": "name"}, steps=60, seeds=2)
    model = choosing(model, **{chosen: 1.0})
    (probe, _) = (objective.learner for objective in model._trained["LinearProbe"])
    names = ["oak", "elm", "fir"]
    support, new = species(names, seed=1), species(names, seed=1, rows=16)
    adapted = model.adapt(support)
    assert adapted.predict(support).tolist() == support.name.tolist()
    model.save(tmp_path / "model")
    probabilities = load_model(tmp_path / "model").adapt(support).predict_proba(new)
    np.testing.assert_array_equal(probabilities, adapted.predict_proba(new))
    if chosen == "NearestFeatureMean":
        one = model._candidate(chosen, 3).learners[0].eval()
        x, new_x = (model.reader_.inputs(frame)[0].float() for frame in (support, new))
        features, new_features = (probe.eval().network.embed(inputs) for inputs in (x, new_x))
        means = torch.stack([features[(support.name == name).to_list()].mean(0) for name in sorted(names)])
        nearest = torch.cdist(new_features, means).argmin(1)
        y = torch.tensor([sorted(names).index(name) for name in support.name])
        assert torch.equal(one(Examples(x, y))(new_x).argmax(1), nearest)


def test_no_class_is_in_two_splits_and_inputs_are_scaled_by_those_of_training():
    frame = species([f"kind {i}" for i in range(20)])
    columns = Columns(task=None, target="name")
    reader, tasks, sizes = fit_episodes(
        columns, frame, Division(splits=(0.6, 0.2, 0.2)), n_way=None, k_shot=None, n_query=None, seed=0
    )
    assert sizes == (4, 4, 4)
    seen = {split: np.concatenate([of.rows for of in tasks[split]._of_split]) for split in tasks}
    names = {split: set(frame.name[rows]) for split, rows in seen.items()}
    assert [len(names[split]) for split in ("train", "val", "test")] == [12, 4, 4]
    assert len(set.union(*names.values())) == 20
    known = frame[frame.name.isin(names["train"])]
    assert reader.encoding.columns[0].mean == pytest.approx(known.u.mean())


def test_tasks_may_have_classes_of_their_own():
    frame = pd.concat(
        [species([f"{task}-{i}" for i in range(3)], seed=task).assign(site=task) for task in range(15)],
        ignore_index=True,
    )
    model = fitted(frame, {"task": "site", "target": "name", "new_classes": True}, steps=60)
    support = species(["x", "y", "z"], seed=99).assign(site="new")
    assert model.adapt(support).predict(support).tolist() == support.name.tolist()
    assert set(model.comparison_.task) <= set(map(str, range(15)))
    with pytest.raises(MetaLensError, match="rows of 2 tasks by its column site"):
        model.adapt(frame[frame.site < 2])


def test_a_learner_with_a_head_says_that_it_has_learned_another_number_of_classes():
    frame = species([f"kind {i}" for i in range(20)])
    model = fitted(frame, {"target": "name"}, learner="ANIL", n_way=3, fallback=False)
    model.adapt(species(["a", "b", "c"]))
    with pytest.raises(MetaLensError, match=r"ANIL was trained for 3 classes, got 2; use one that takes any"):
        model.adapt(species(["a", "b"]))


@pytest.mark.parametrize(
    ("data", "roles", "message"),
    [
        (lambda: species(["a", "b"]), {}, "target must name the column with the classes"),
        (lambda: species(["a", "b", "c"]), {"target": "name"}, "at least 2 classes"),
        (lambda: species("abcdefghij"), {"target": "u"}, "u holds real numbers.*use MetaRegressor"),
        (lambda: species("abcdefghij"), {"target": "kind"}, "no column kind"),
        (
            lambda: species("abcdefghij"),
            {"target": "name", "duplicates": "refuse"},
            "duplicates='refuse' is",
        ),
        (lambda: assays(words=("x", "x")), SHARED, "names one class, x, in all rows"),
        (lambda: "missing", {}, "There is no folder or zip file missing"),
        (lambda: assays(), {**SHARED, "splits": {"train": ["1"]}}, "a column or three shares, got a mapping"),
    ],
)
def test_data_that_cannot_be_used_are_refused(data, roles, message):
    with pytest.raises(MetaLensError, match=message):
        fitted(data(), roles)


def test_one_new_class_alone_is_refused():
    model = fitted(species([f"kind {i}" for i in range(20)]), {"target": "name"})
    with pytest.raises(MetaLensError, match="The support has one class, oak; give examples of two or more"):
        model.adapt(species(["oak"]))


@pytest.mark.slow
def test_images_from_folders_to_labels_and_back_from_a_file(tmp_path):
    folder = color_folders(tmp_path / "train", [f"kind {i}" for i in range(14)])
    model = fitted(folder, {"image_size": 16}, k_shot=2, n_query=3, fallback=False)
    assert model.chosen_ == "ProtoNet"
    few = color_folders(tmp_path / "few", ["amber", "teal", "rose"], seed=1)
    adapted = model.adapt(few)
    assert adapted.classes_.tolist() == ["amber", "rose", "teal"]
    files = sorted(few.glob("*/*.png"))
    probabilities = adapted.predict_proba(few)
    np.testing.assert_array_equal(probabilities, adapted.predict_proba([str(file) for file in files]))
    # What is said of an image does not depend on the others.
    np.testing.assert_allclose(adapted.predict_proba(files[:1]), probabilities[:1], rtol=1e-5, atol=1e-9)
    assert set(adapted.predict(files)) <= {"amber", "rose", "teal"}
    packed = tmp_path / "few.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(few))
    np.testing.assert_array_equal(model.adapt(packed).predict_proba(packed), probabilities)

    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert isinstance(again, MetaClassifier)
    np.testing.assert_array_equal(again.adapt(few).predict_proba(few), probabilities)
    models = ["ProtoNet", "NearestFeatureMean", "LinearProbe", "MeanPredictor", "NearestCentroid"]
    assert again.evaluate(few, n_query=1).model.unique().tolist() == models
    assert again.feature_names_in_.size == 0
    with pytest.raises(MetaLensError, match=r"There is no image .*missing\.png"):
        adapted.predict([few / "missing.png"])
    with pytest.raises(MetaLensError, match="by the path of a folder, a zip file or files, got DataFrame"):
        model.adapt(assays())
    with pytest.warns(UserWarning, match="left out"), pytest.raises(MetaLensError, match="has no images"):
        adapted.predict(tmp_path / "model")


@pytest.mark.parametrize("shared", [True, False])
def test_predictions_after_loading_are_the_same_bit_by_bit(shared, tmp_path):
    if shared:
        model = fitted(assays(), SHARED, seeds=2, fallback=False)
        support = assays(1, seed=3)
    else:
        model = fitted(species([f"kind {i}" for i in range(20)]), {"target": "name"}, fallback=False)
        support = species(["a", "b", "c"], seed=3)
    model.save(tmp_path / "model")
    again = MetaClassifier.load(tmp_path / "model")
    assert again.get_params() == model.get_params()
    one, other = (of.adapt(support) for of in (model, again))
    np.testing.assert_array_equal(one.predict_proba(support), other.predict_proba(support))
    assert one.classes_.tolist() == other.classes_.tolist()


def test_a_task_has_classes_of_one_domain(tmp_path):
    for seed, split in enumerate(("train", "val", "test")):
        for domain, n in (("photo", 3), ("sketch", 2)):
            names = [f"{split} {i}" for i in range(n)]
            color_folders(tmp_path / split / domain, names, seed=10 * seed + n)
    model = fitted(tmp_path, {"image_size": 16}, k_shot=2, n_query=2)
    assert model._sizes.n_way == 3


def test_a_domain_with_more_classes_of_too_few_images_does_not_count(tmp_path):
    for seed, split in enumerate(("train", "val", "test")):
        color_folders(tmp_path / split / "sketch", [f"{split} {i}" for i in range(6)], images=1, seed=seed)
        color_folders(tmp_path / split / "photo", [f"{split} {i}" for i in range(2)], seed=10 + seed)
    sizes = episode_sizes(class_counts(tmp_path, None, "domain/class"), None, 1, 2)
    assert sizes == (2, 1, 2)
    with pytest.raises(MetaLensError, match="split train has 0"):
        episode_sizes(class_counts(tmp_path, {}, "domain/class"), None, 1, 2)


def test_classes_of_equal_names_in_several_tasks_are_different_ones():
    tables = [species(["a", "b", "c"], seed=seed).assign(site=f"s{seed}") for seed in range(10)]
    frame = pd.concat(tables, ignore_index=True)
    frame["split"] = frame.site.map(lambda name: ["train", "train", "val", "test"][int(name[1:]) % 4])
    roles = {"target": "name", "task": "site", "new_classes": True, "splits": "split"}
    for learner in (None, "LinearProbe"):
        model = fitted(frame, roles, learner=learner)
        (probe,) = model._trained["LinearProbe"]
        assert probe.learner.network.n_outputs == 3 * 6  # classes of a training site, and sites


def test_the_mean_of_features_needs_the_probe_trained_alone():
    model = fitted(species("abcdefghijkl"), {"target": "name"}, baselines=["NearestFeatureMean"])
    assert model.comparison_.model.unique().tolist() == ["ProtoNet", "NearestFeatureMean"]
    assert list(model._trained) == ["ProtoNet", "LinearProbe"]


def test_settings_of_tables_are_refused_for_images(tmp_path):
    with pytest.raises(MetaLensError, match="Images need no missing, smiles; leave it out, or give target"):
        MetaClassifier().fit(tmp_path, smiles="x", missing="drop")
