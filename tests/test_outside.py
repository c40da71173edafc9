"""Methods and recipes from outside: by module and name, and of installed packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

from metalens import MAML, MetaLensError, MetaRegressor, Sinusoid, mlp
from metalens.experiments import RECIPES, find_recipe
from metalens.experiments.experiment import run
from metalens.experiments.loading import recipe_of
from metalens.io.files import new_folder
from metalens.reports import read_results
from metalens.reports.reading import read_manifest
from metalens.specs import outside
from metalens.specs.calls import LEARNERS, build_learner, build_regularizers, canonical, parse_calls

PLUGIN = Path(__file__).parent / "plugin"


def forget(monkeypatch):
    monkeypatch.setattr(outside, "plugins", outside.plugins.__wrapped__)
    for name in ("decays", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    outside._loaded.cache_clear()


@pytest.fixture
def module(monkeypatch):
    """Make the module `decays` importable, and not imported."""
    forget(monkeypatch)
    monkeypatch.syspath_prepend(str(PLUGIN))


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Install the package, as the import system sees it."""
    forget(monkeypatch)
    site = tmp_path / "site"
    info = site / "decays-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(PLUGIN / "decays.py", site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: decays\nVersion: 1.0\n")
    text = (PLUGIN / "pyproject.toml").read_text().partition('[project.entry-points."metalens.plugins"]\n')[2]
    points = text.partition("\n\n")[0].replace('"', "")
    (info / "entry_points.txt").write_text(f"[metalens.plugins]\n{points}\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr("metalens.specs.calls.plugins", outside.plugins)
    return site


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    "text",
    [
        "decays:DampedMAML",
        "decays:DampedMAML(inner_lr=0.1, damping=0.9)",
        "decays:FeaturePenalty(weight=0.3) + TRLearner(relation=Cosine(heads=2))",
        "none",
    ],
)
def test_names_with_modules_are_parsed_as_others(text):
    assert canonical(text) == canonical(canonical(text)) == text
    assert "decays" not in sys.modules  # parsing imports nothing


@pytest.mark.usefixtures("module")
def test_a_learner_is_built_by_module_and_name():
    learner = build_learner("decays:DampedMAML(damping=0.25)", mlp(), lambda name: {"inner_lr": 0.3})
    assert type(learner).__name__ == "DampedMAML"
    assert (learner.damping, learner.inner_lr) == (0.25, 0.3)
    (regularizer,) = build_regularizers("decays:FeaturePenalty(weight=0.5)")
    assert regularizer.weight == 0.5


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("decays:Missing", "The module decays has no Missing; correct 'decays:Missing'"),
        ("decays:DampedMAML(damping=high)", "DampedMAML: damping must be a number, got 'high'"),
        ("nowhere.at_all:MAML", r"The module nowhere.at_all cannot be imported \(ModuleNotFoundError"),
        ("decays:FeaturePenalty", "decays:FeaturePenalty is no learner, but the class FeaturePenalty"),
        ("decays:recipe", "decays:recipe is no learner, but a DecayRecipe"),
        ("decays:DampedMAML(damp=1)", "DampedMAML has no setting 'damp'; it has damping, inner_lr, inner"),
        (
            "Damped",
            "There is no learner 'Damped'; choose from .*, or give one of yours as my_module:its",
        ),
        ("decays.DampedMAML", "Cannot read 'decays.DampedMAML'"),
        ("decays:DampedMAML()()", "Cannot read"),
        ("a:b:c", "Cannot read"),
    ],
)
def test_mistakes_in_names_are_sentences(text, words):
    with pytest.raises(MetaLensError, match=words):
        build_learner(text, mlp(), lambda name: {})


def test_a_module_that_fails_is_named_with_its_error(monkeypatch, tmp_path):
    forget(monkeypatch)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MetaLensError, match=r"The module broken cannot be imported \(ZeroDivisionError: div"):
        LEARNERS.find("broken:Anything")


def test_the_working_directory_is_searched_last(monkeypatch, tmp_path):
    forget(monkeypatch)
    (tmp_path / "broken.py").write_text("from metalens import MAML\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert LEARNERS.find("broken:MAML") is MAML
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.usefixtures("installed")
def test_installed_packages_are_known_by_name():
    assert set(outside.plugins()) == {"DampedMAML", "FeaturePenalty", "Decay", "decay-5shot"}
    assert "decays" not in sys.modules
    assert canonical("dampedmaml(damping=0.5)") == "DampedMAML(damping=0.5)"
    assert LEARNERS.find("DampedMAML").__module__ == "decays"
    assert "DampedMAML" in LEARNERS.everything()
    assert "FeaturePenalty" not in LEARNERS.everything()
    assert find_recipe("decay-5shot").name == "decay-5shot"
    assert list(RECIPES.everything())[-1] == "decay-5shot"


def test_a_package_that_fails_to_import_is_left_out_with_a_warning(installed):
    (installed / "decays.py").write_text("import no_such_module\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert "MAML" in LEARNERS.everything()
    assert sum("of the package decays cannot be imported" in str(one.message) for one in caught) == 4
    with pytest.raises(MetaLensError, match=r"DampedMAML of the package decays cannot be imported \(Mod"):
        LEARNERS.find("DampedMAML")


@pytest.mark.usefixtures("module")
def test_a_run_is_read_again_only_if_the_user_names_its_module(tmp_path, monkeypatch):
    learner = "decays:DampedMAML"
    recipe = find_recipe("decays:recipe")
    settings = {"learner": [learner], "regularizers": ["none"], "seeds": [0], "n_val_tasks": 0}
    from dataclasses import replace

    with new_folder(tmp_path / "run") as folder:
        run(replace(recipe, **settings), folder)
    manifest = read_manifest(tmp_path / "run")
    assert manifest["recipe"] == "decays:recipe"
    assert read_results(tmp_path / "run").learner.unique().tolist() == [learner]
    assert recipe_of(manifest).learner == [learner]
    monkeypatch.delitem(sys.modules, "decays")
    with pytest.raises(MetaLensError, match="names 'decays:recipe', and files do not decide what"):
        recipe_of(manifest)
    assert "decays" not in sys.modules


@pytest.mark.usefixtures("module")
def test_a_model_is_read_again_only_if_the_user_names_its_module(tmp_path, monkeypatch, data):
    model = MetaRegressor(learner="decays:DampedMAML", baselines=("MeanPredictor",), steps=3, k_shot=4)
    model.fit(data, task="task", target="y")
    model.save(tmp_path / "model")
    assert MetaRegressor.load(tmp_path / "model").learner == "decays:DampedMAML"
    monkeypatch.delitem(sys.modules, "decays")
    with pytest.raises(MetaLensError, match=r"^\S* names 'decays:DampedMAML', and files do not decide"):
        MetaRegressor.load(tmp_path / "model")
    assert "decays" not in sys.modules


@pytest.fixture
def data():
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"task": np.repeat([f"t{i}" for i in range(40)], 12), "x": rng.normal(size=480)})
    return rows.assign(y=rows.x * rows.task.str[1:].astype(int) / 20 + rng.normal(size=480))


def test_texts_with_colons_in_quotes_are_no_names():
    (call,) = parse_calls("Sampler(path='C:data', other=\"a:b\")")
    assert call.settings == {"path": "C:data", "other": "a:b"}


@pytest.mark.slow
def test_an_installed_package_is_listed_runs_sweeps_resumes_and_passes_the_contracts(tmp_path):
    shutil.copytree(PLUGIN, tmp_path / "source")
    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*pip, "--target", str(site), str(tmp_path / "source")], check=True, capture_output=True)

    def metalens(*words, status=0):
        code = f"import sys; sys.path.append({str(site)!r}); from metalens.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    listed = metalens("list")
    for name in ("DampedMAML", "FeaturePenalty", "decay-5shot", "Decay "):
        assert name in listed
    few = ["--machine.compile", "false", "--machine.profile", "false"]
    assert "DampedMAML + FeaturePenalty" in metalens("run", "decay-5shot", *few)
    results = (tmp_path / "runs" / "decay-5shot" / "results.csv").read_bytes()
    metalens("run", "decay-5shot", *few, "--resume")
    assert (tmp_path / "runs" / "decay-5shot" / "results.csv").read_bytes() == results
    assert "DampedMAML" in metalens("report", "runs/decay-5shot")
    assert "decays:DampedMAML" in metalens(
        "run", "decays:recipe", "--learner", "decays:DampedMAML(damping=0.9)", "--regularizers", "none", *few
    )
    refused = metalens("relations", "runs/decays.recipe", status=2)
    assert "files do not decide what is imported" in refused
    metalens("--import", "decays", "relations", "runs/decays.recipe", "--tasks", "4", "--by", "predictions")
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({"DampedMAML.damping": [0.3, 0.9]}))
    metalens(
        "sweep", "decay-5shot", "--space", "space.yaml", "--trials", "2", "--regularizers", "none",
        "--seeds", "0", *few,
    )  # fmt: skip
    checks = """
import metalens as ml
from torch.nn import Softplus
from decays import DampedMAML, Decay, FeaturePenalty
from metalens.testing import check_distribution, check_learner, check_regularizer
check_learner(lambda: DampedMAML(ml.mlp(5, 3, activation=Softplus)))
check_regularizer(lambda learner: FeaturePenalty(weight=0.1))
check_distribution(lambda split, seed: Decay(split, seed=seed))
"""
    code = f"import sys; sys.path.append({str(site)!r})\n{checks}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_tasks_of_a_recipe_from_outside_are_those_of_its_distribution(module):
    tasks = find_recipe("decays:recipe").distribution("test", 0)
    assert not isinstance(tasks, Sinusoid)
    assert tasks[0].support.x.shape == (5, 1)
