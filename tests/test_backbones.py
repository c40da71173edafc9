"""Pretrained backbones by name and file: in recipes, on own images, on the command line."""

import hashlib
import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_images import class_folders, write

from metalens import ANIL, MAML, R2D2, MetaClassifier, MetaLensError, ProtoNet
from metalens.experiments import RECIPES
from metalens.experiments.arms import arms_of
from metalens.experiments.experiment import run
from metalens.experiments.loading import load_objective, recipe_of
from metalens.networks.backbone import Backbone

pytestmark = pytest.mark.usefixtures("stand_in")
NAMES = [f"bird{number:02}" for number in range(12)]
SMALL = {"backbone": "batch", "n_way": 2, "k_shot": 1, "n_query": 2}


@pytest.fixture
def weights(tmp_path):
    """A file of weights of a model of timm with batch normalization, and the model."""
    return saved(tmp_path / "weights.safetensors", seed=0)


def saved(path, seed):
    import timm

    torch.manual_seed(seed)
    model = timm.create_model("batch", pretrained=False, num_classes=7, in_chans=3, img_size=None)
    for _ in range(9):
        model(1 + 2 * torch.randn(8, 3, 8, 8))
    save_file(model.state_dict(), path)
    return path, model.eval()


@pytest.fixture
def birds(tmp_path):
    return write(tmp_path / "birds", class_folders(NAMES, 4))


def test_images_are_normalized_as_the_weights_expect(weights):
    path, model = weights
    network = Backbone.of("batch", str(path)).network(7, 3, 8)
    pixels = torch.rand(4, 3, 8, 8)
    mean, std = (torch.tensor(of).view(3, 1, 1) for of in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    torch.testing.assert_close(network(2 * pixels - 1), model((pixels - mean) / std))
    torch.testing.assert_close(network.train()(2 * pixels[:1] - 1), model((pixels[:1] - mean) / std))
    grey = Backbone.of("batch", None).network(2, 1, 8)
    assert grey.backbone[0].mean.flatten().tolist() == pytest.approx([0.4])


def test_other_files_are_refused(weights, tmp_path):
    path, _ = weights
    backbone = Backbone.of("batch", str(path))
    assert backbone.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    saved(path, seed=1)
    with pytest.raises(MetaLensError, match=r"holds other weights than before: its SHA-256 begins with"):
        backbone.network(2, 3, 8)
    with pytest.raises(MetaLensError, match=r"none\.pth cannot be read .*give the path of a file"):
        Backbone.of("batch", "none.pth")
    with pytest.raises(MetaLensError, match="weights are those of a backbone; name it"):
        Backbone.of(None, str(path))
    with pytest.raises(MetaLensError, match="weights_sha256 is the hash of a file; give its path"):
        Backbone.of("batch", None, "abc")
    assert Backbone.of(None, None) is None


@pytest.mark.parametrize(
    "learner", ["ProtoNet", "ANIL(inner_lr=0.1)", "R2D2", "MAML(inner_lr=0.1, adapting=norm)"]
)
def test_estimators_learn_on_a_backbone_and_need_no_file_afterwards(weights, birds, learner, tmp_path):
    path, model = weights
    settings = {**SMALL, "weights": str(path), "steps": 2, "meta_batch_size": 2, "baselines": ("KNN",)}
    estimator = MetaClassifier(learner, **settings, fallback=False).fit(birds, image_size=8)
    network = next(iter(estimator._trained.values()))[0].learner.network
    statistics = network.backbone.model.norm
    assert torch.equal(statistics.running_mean, model.norm.running_mean)
    assert not torch.equal(network.backbone.model.stem.weight, model.stem.weight)  # it was trained
    assert learner != "MAML(inner_lr=0.1, adapting=norm)" or network.n_features == 4
    few = write(tmp_path / "few", class_folders(NAMES[:2], 2))
    estimator.save(tmp_path / "model")
    facts = json.loads((tmp_path / "model" / "model.json").read_text())
    assert facts["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    again = MetaClassifier.load(tmp_path / "model")
    for one, other in zip(again._objectives(), estimator._objectives(), strict=True):
        for name, tensor in one[1].state_dict().items():
            assert torch.equal(tensor, other[1].state_dict()[name])
    proba = again.adapt(few).predict_proba(few)
    assert (proba == estimator.adapt(few).predict_proba(few)).all()
    with pytest.raises(MetaLensError, match="cannot be read"):
        again.fit(birds, image_size=8)


def test_named_parameters_alone_adapt(weights):
    path, _ = weights
    network = Backbone.of("batch", str(path)).network(2, 3, 8)
    learner = MAML(network, inner_lr=0.1, adapting="norm")
    assert set(learner.adapted_parameters()) == {"backbone.model.norm.weight", "backbone.model.norm.bias"}
    assert [make(network) is not None for make in (ProtoNet, R2D2)] == [True, True]
    assert set(ANIL(network, inner_lr=0.1).adapted_parameters()) == {"head.weight", "head.bias"}


def test_a_backbone_is_refused_for_tables(weights):
    table = pd.DataFrame({"kind": ["a", "b"] * 9, "x": range(18)})
    with pytest.raises(MetaLensError, match="backbone='batch' is for images; leave it out for a table"):
        MetaClassifier(backbone="batch").fit(table, target="kind")


@pytest.fixture
def recipe(weights, birds, monkeypatch):
    """A recipe on small images in place of a published data set."""
    from metalens import ImageFolders

    def tasks(self, dataset, split, seed, *, entire=False):
        return ImageFolders(
            birds, split, image_size=8, seed=seed, **self.values("n_way", "k_shot", "n_query")
        )

    monkeypatch.setattr("metalens.experiments.recipes.images.ImagesRecipe.tasks", tasks)
    changes = {
        "steps": 2,
        "n_val_tasks": 2,
        "n_test_tasks": 2,
        "meta_batch_size": 2,
        "image_size": 8,
        "seeds": [0],
    }
    changes |= {"learner": ["ProtoNet", "ANIL", "R2D2", "MAML(adapting=norm)"], "regularizers": ["none"]}
    return replace(RECIPES["cifarfs-5w1s"], **changes, **SMALL, weights=str(weights[0]))


def test_a_recipe_trains_on_a_backbone_and_resumes_with_its_weights_alone(recipe, weights, tmp_path):
    path, model = weights
    assert (
        recipe.weights_sha256
        == recipe.configuration["weights_sha256"]
        == Backbone.of("batch", str(path)).sha256
    )
    out = tmp_path / "run"
    out.mkdir()
    run(recipe, out)
    trained = load_file(out / "weights" / "arm0-seed0.safetensors")
    assert torch.equal(trained["learner.network.backbone.model.norm.running_mean"], model.norm.running_mean)
    manifest = json.loads((out / "manifest.json").read_text())
    path.unlink()
    of_run = recipe_of(manifest)
    assert of_run == recipe
    for arm in arms_of(of_run):
        network = load_objective(out, of_run, arm, 0).learner.network
        assert torch.equal(network.backbone.model.norm.running_mean, model.norm.running_mean)
    saved(path, seed=1)
    with pytest.raises(MetaLensError, match=r"is of another run: weights_sha256 was .* and is "):
        run(replace(recipe, weights_sha256=None), out)


def test_the_command_line_trains_on_a_backbone(metalens_here, weights, birds, tmp_path):
    small = ["--n_way", "2", "--k_shot", "1", "--n_query", "2", "--image_size", "8", "--steps", "2"]
    small += ["--meta_batch_size", "2", "--baselines", "KNN", "--backbone", "batch"]
    done = metalens_here("train", "--data", "birds", *small, "--weights", "weights.safetensors")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "model" / "model.json").read_text())["settings"]["backbone"] == "batch"
    write(tmp_path / "few", class_folders(NAMES[:2], 2))
    weights[0].unlink()
    done = metalens_here("predict", "--model", "model", "--support", "few", "--query", "few")
    assert done.returncode == 0, done.stderr
    for words, sentence in (
        (["--data", "birds", "--weights", "none.pth"], "The weights none.pth cannot be read"),
        (["--data", "birds.csv", "--target", "y"], "--backbone and --weights are for images"),
    ):
        (tmp_path / "birds.csv").write_text("x,y\n1,2\n")
        done = metalens_here("train", *words, *small, "--out", "other")
        assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr
    done = metalens_here("run", "cifarfs-5w1s", "--weights", "weights.safetensors")
    assert "weights are those of a backbone; name it" in done.stderr
