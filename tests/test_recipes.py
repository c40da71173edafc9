"""Every recipe assembles, and a run of two steps writes everything that a run has."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from metalens import MetaLensError, Objective
from metalens.data.catalog.datasets import DATASETS
from metalens.experiments import RECIPES
from metalens.experiments.arms import Arm, arms_of
from metalens.experiments.experiment import run
from metalens.experiments.loading import arm_of, recipe_of
from metalens.experiments.recipe import ONE_THREAD
from metalens.experiments.store import Store
from metalens.relations import Cosine, Shuffled, Uniform
from metalens.reports import write_report
from metalens.specs.calls import LEARNERS, REGULARIZERS, build_learner, build_regularizers, parse_calls
from metalens.specs.settings import changed
from metalens.statistics.arms import ARM

TABLES = ("drug-kiba", "drug-chembl", "parkinsons")
pytestmark = pytest.mark.filterwarnings("ignore:Found .* of Omniglot")  # a copy may be incomplete
TINY = {"steps": 2, "meta_batch_size": 3, "n_test_tasks": 4, "n_val_tasks": 3, "seeds": [0, 1]}


FILES = {"m4-hourly": "tables/m4_hourly.csv.gz", "pose": "pose/pose_objects.npz"}


@pytest.fixture
def omniglot(request, monkeypatch):
    """Omniglot recipes read the real zips, where they are present."""
    monkeypatch.setenv("METALENS_DATA", str(request.getfixturevalue("data_folder")))


@pytest.fixture
def images(request, monkeypatch):
    """Recipes on images read the real zips, where they are present."""
    monkeypatch.setenv("METALENS_DATA", str(request.getfixturevalue("data_folder")))
    if any(DATASETS[name].find() is None for name in ("cifarfs", "tinyimagenet", "gtsrb", "pacs")):
        pytest.skip("not all data sets of images are in METALENS_DATA")


@pytest.fixture
def tables(request, monkeypatch):
    """The recipes on tables read the real ones, where these and RDKit are present."""
    pytest.importorskip("rdkit", reason="RDKit is not installed; pip install 'metalens[chem]'")
    monkeypatch.setenv("METALENS_DATA", str(request.getfixturevalue("data_folder")))


IMAGES = ("cifarfs", "tinyimagenet", "cross-domain", "multi-domain")


@pytest.mark.filterwarnings("ignore:Found", "ignore:.*left out")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* have a molecule whose fingerprint is also that of another")  # ChEMBL
@pytest.mark.parametrize("name", RECIPES)
def test_recipe_runs(name, tmp_path, request):
    changes = dict(TINY)
    if name.startswith("omniglot"):
        request.getfixturevalue("omniglot")
        changes |= {"n_filters": 4, "n_query": 2, "learner": ["MAML", "ANIL", "ProtoNet"], "seeds": [0]}
    if name in FILES:
        if not (request.getfixturevalue("data_folder") / FILES[name]).is_file():
            pytest.skip(f"no {FILES[name]}; set METALENS_DATA")
        request.getfixturevalue("omniglot")
        changes |= {"seeds": [0], "k_shot": 3, "n_query": 2}
        changes |= {"n_filters": 2} if name == "pose" else {"hidden": [4]}
        if name == "m4-hourly":
            changes |= {"learner": ["MAML", "SeasonalBoosting(n_tasks=9, max_rounds=2)", "SeasonalNaive"]}
    if name in TABLES:
        request.getfixturevalue("tables")
        changes |= {"hidden": [4], "seeds": [0], "learner": ["MAML", "Ridge"]}
    if name.startswith(IMAGES):
        request.getfixturevalue("images")
        changes |= {"n_filters": 4, "n_query": 2, "image_size": 16, "seeds": [0], "meta_batch_size": 4}
    recipe = replace(RECIPES[name], **changes)
    run(recipe, tmp_path, command="metalens run")
    arms = arms_of(recipe)
    results = pd.read_csv(tmp_path / "results.csv")
    columns = ["recipe", *ARM, "seed", "split", "task", "metric", "value"]
    if name.endswith("-domain"):
        columns.insert(6, "domain")
    if name.startswith(("m4", "pose", *TABLES)):
        columns.insert(7, "source")
    assert list(results.columns) == columns
    assert len(results.drop_duplicates(columns[:-1])) == len(results)
    n_metrics = results.metric.nunique()
    assert len(results) == len(arms) * len(recipe.seeds) * recipe.n_test_tasks * n_metrics
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["configuration"]["steps"] == 2
    assert len(manifest["cells"]) == len(arms) * len(recipe.seeds)
    weights = load_file(tmp_path / "weights" / "arm0-seed0.safetensors")
    assert weights.keys() == arms[0].build(recipe, 0).state_dict().keys()
    assert write_report(tmp_path).is_file()
    assert (tmp_path / "curves.csv").exists() != name.startswith(("omniglot", "m4", "pose", *TABLES, *IMAGES))
    assert (tmp_path / "relations.csv").exists()


OF_FILES = {"TabICL", "TabPFN"}  # their weights are no part of MetaLens
OF_NUMBERS = {"SeasonalNaive", "SeasonalBoosting", "MixedModel", "Boosting", "Shrunken", "ResidualGP"}
CLASSIFIERS = {"ProtoNet", "ProtoMAML", "MatchingNet", "MetaOptNet", "NearestCentroid", "LogisticRegression"}


@pytest.mark.slow
def test_every_learner_runs_on_curves(tmp_path):
    learners = [name for name in LEARNERS if name not in CLASSIFIERS | OF_FILES]
    changes = {**TINY, "learner": learners, "regularizers": ["none"], "seeds": [0]}
    run(replace(RECIPES["sinusoid-5shot"], **changes), tmp_path)
    assert write_report(tmp_path).is_file()
    assert set(pd.read_csv(tmp_path / "results.csv").learner) == set(learners)


def test_a_run_in_which_nothing_is_trained_has_a_report(tmp_path):
    changes = {**TINY, "learner": ["Ridge", "KNN"], "regularizers": ["none"]}
    run(replace(RECIPES["sinusoid-5shot"], **changes), tmp_path)
    assert "Learning curves" not in write_report(tmp_path).read_text(encoding="utf-8")
    assert not (tmp_path / "figures" / "learning-curves.png").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Found")
@pytest.mark.usefixtures("omniglot")
@pytest.mark.parametrize("together", ["auto", False])
def test_a_training_that_diverges_is_a_result(tmp_path, together):
    arms = ["none", "TRLearner(weight=1e39)"]
    machine = replace(ONE_THREAD, together=together)
    recipe = replace(RECIPES["sinusoid-5shot"], **TINY, regularizers=arms, machine=machine)
    run(recipe, tmp_path)
    results, metrics = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("results", "metrics"))
    is_nan = results.value.isna()
    assert (is_nan == (results.regularizers != "none")).all()
    assert metrics[metrics.metric == "diverged"][["regularizers", "seed", "step"]].values.tolist() == [
        ["TRLearner(weight=1e+39)", seed, 1] for seed in recipe.seeds
    ]
    cells = json.loads((tmp_path / "manifest.json").read_text())["cells"]
    assert [cell["diverged"] for cell in cells] == [None, None, 1, 1]
    page = write_report(tmp_path).read_text()
    assert "training diverged with seed 0 at step 1, seed 1 at step 1." in page


def test_a_run_in_which_everything_diverges_is_one_sentence(tmp_path):
    recipe = replace(RECIPES["sinusoid-5shot"], **TINY, regularizers=["TRLearner(weight=1e39)"])
    with pytest.raises(
        MetaLensError, match=r"Every training diverged, that of MAML \+ TRLearner\(.*at step 1"
    ):
        run(recipe, tmp_path)


def test_seeds_and_steps_are_whole_numbers_beside_a_learner_that_does_not_train(tmp_path):
    run(replace(RECIPES["sinusoid-5shot"], **TINY | {"learner": ["MAML", "Ridge"]}), tmp_path)
    assert set(pd.read_csv(tmp_path / "metrics.csv")[["seed", "step"]].dtypes) == {np.dtype("int64")}


@pytest.mark.slow
def test_every_learner_runs_on_images(tmp_path, omniglot):
    learners = [name for name in LEARNERS if name not in OF_NUMBERS | OF_FILES]
    changes = {**TINY, "learner": learners, "regularizers": ["none"], "seeds": [0]}
    run(replace(RECIPES["omniglot-5w1s"], n_filters=4, n_query=2, **changes), tmp_path)
    assert set(pd.read_csv(tmp_path / "results.csv").learner) == set(learners)


@pytest.mark.slow
def test_every_regularizer_runs_on_curves(tmp_path):
    arms = [
        "none",
        *(name for name in REGULARIZERS if name not in ("LabelSmoothing", "CrossTaskConfidencePenalty")),
    ]
    run(replace(RECIPES["sinusoid-5shot"], **TINY | {"regularizers": arms, "seeds": [0]}), tmp_path)
    assert pd.read_csv(tmp_path / "results.csv").regularizers.unique().tolist() == arms


def test_arms_start_from_equal_weights_and_seeds_from_different_ones():
    recipe = RECIPES["demo"]
    plain, regularized = arms_of(recipe)[:2]
    first = plain.build(recipe, 0).learner.state_dict()
    same = regularized.build(recipe, 0).learner.state_dict()
    other = plain.build(recipe, 1).learner.state_dict()
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "weight" in name)


@pytest.mark.parametrize("regularizer", REGULARIZERS)
def test_two_builds_of_an_arm_with_one_seed_are_equal(regularizer):
    before = torch.get_rng_state()
    one, other = (Arm("MAML", regularizer).build(RECIPES["demo"], 3).state_dict() for _ in range(2))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_learner_without_regularizers_is_an_arm_beside_regularized_ones():
    recipe = replace(RECIPES["demo"], learner=["MAML", "Reptile"], regularizers=["none", "TRLearner"])
    assert [str(arm) for arm in arms_of(recipe)] == ["MAML", "MAML + TRLearner", "Reptile"]
    joined = replace(recipe, learner=["MAML + ANIL", "MAML"])
    with pytest.raises(MetaLensError, match="must be a single name, got 'MAML \\+ ANIL'"):
        arms_of(joined)[0].build(joined, 0)
    alone = replace(recipe, learner=["Reptile"], regularizers=["TRLearner"])
    assert [str(arm) for arm in arms_of(alone)] == ["Reptile + TRLearner"]


def test_arms_are_all_pairs_in_canonical_writing():
    recipe = replace(
        RECIPES["demo"],
        learner=["MAML", "ANIL( inner_lr=.1 )"],
        regularizers=["none", "TRLearner( weight=.5)"],
    )
    assert arms_of(recipe) == [
        Arm("MAML", "none"),
        Arm("MAML", "TRLearner(weight=0.5)"),
        Arm("ANIL(inner_lr=0.1)", "none"),
        Arm("ANIL(inner_lr=0.1)", "TRLearner(weight=0.5)"),
    ]


def test_settings_of_a_call_override_those_of_the_recipe():
    network = RECIPES["sinusoid-5shot"].network()
    learner = build_learner("MAML(inner_steps=3, first_order=True)", network, RECIPES["sinusoid-5shot"].tuned)
    assert (learner.inner_lr, learner.inner_steps, learner.first_order) == (0.01, 3, True)
    plain = build_learner("MAML(first_order=false, test_inner_steps=null)", network, lambda name: {})
    assert (plain.first_order, plain.test_inner_steps) == (False, 1)
    masked = build_learner("MTNet(test_inner_steps=null, mask_temperature=2)", network, lambda name: {})
    assert (masked.test_inner_steps, masked.mask_temperature, masked.inner_lr) == (1, 2.0, 0.01)
    both = build_regularizers("TRLearner(weight=0.3) + TRLearner(relation=Uniform)")
    assert [(r.weight, type(r.relation)) for r in both] == [(0.3, Cosine), (0.1, Uniform)]
    assert build_regularizers("none") == []
    (adaptation,) = build_regularizers("TRLearner(relation=Cosine(vector=adaptation))")
    Objective(learner, [adaptation])
    assert adaptation.relation.omega.shape == (4, sum(p.numel() for p in network.parameters()))
    (nested,) = build_regularizers("TRLearner(relation=shuffled(relation=cosine(heads=2, temperature=.5)))")
    inner = nested.relation.relation
    assert (type(nested.relation), inner.heads, inner.temperature) == (Shuffled, 2, 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NoSuch", "There is no learner 'NoSuch'; choose from ADKF, ANIL, "),
        ("MAML(speed=3)", "MAML has no setting 'speed'; it has adapting, first_order, inner_clip"),
        ("MAML(inner_steps=1.5)", "MAML: .*inner_steps"),
        ("MAML(inner_lr=fast)", "MAML: .*inner_lr"),
        ("MAML(network=3)", "MAML has no setting 'network'"),
        ("MAML(inner_lr=0)", "inner_lr must be above 0 and finite, got 0"),
        ("MAML(inner_steps=0)", "inner_steps must be at least 1"),
        ("MAML(inner_lr=None)", "MAML: inner_lr must have a value"),
        ("MTNet(inner_lr=None)", "MTNet: inner_lr must have a value"),
        ("MTNet(speed=3)", "MTNet has no setting 'speed'; it has adapting, .* mask_temperature"),
        ("MAML(first_order=maybe)", "MAML: .*first_order"),
        ("MAML + ANIL", "must be a single name"),
        ("__import__('os').system('true')", "Cannot read"),
        ("MAML(0.1)", "Cannot read"),
        ("MAML(**{})", "Cannot read"),
        ("MAML(inner_lr=", "Cannot read"),
        ("", "Cannot read"),
        ("(" * 10_000, "Cannot read"),
    ],
)
def test_wrong_calls_are_one_sentence(text, words):
    with pytest.raises(MetaLensError, match=words):
        build_learner(text, RECIPES["sinusoid-5shot"].network(), lambda name: {})


def test_every_catalogued_class_has_a_one_line_description():
    for cls in (*LEARNERS.values(), *REGULARIZERS.values()):
        assert cls.__doc__.split("\n")[0].endswith(".")
    assert all(recipe.description for recipe in RECIPES.values())
    assert [str(call) for call in parse_calls("TRLearner")] == ["TRLearner"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": []}, "seeds must name at least one"),
        ({"seeds": [0, 0]}, "each once"),
        ({"seeds": [-1]}, "seeds must be 0 or more"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"n_val_tasks": -1}, "n_val_tasks must be 0 or more"),
    ],
)
def test_wrong_fields_are_refused(changes, words):
    with pytest.raises(MetaLensError, match=words):
        replace(RECIPES["demo"], **changes)


def test_an_objective_is_built_once_for_each_arm_and_seed(tmp_path, monkeypatch):
    built, build = [], Arm.build

    def noting(arm, recipe, seed):
        built.append((arm, seed))
        return build(arm, recipe, seed)

    monkeypatch.setattr(Arm, "build", noting)
    recipe = replace(RECIPES["demo"], **TINY, sampler=["Uniform", "HardMining"])
    run(recipe, tmp_path)
    assert sorted(built) == sorted((arm, seed) for arm in arms_of(recipe) for seed in recipe.seeds)


def test_the_machine_is_apart_from_what_defines_the_result(tmp_path):
    recipe = changed(RECIPES["demo"], {**TINY, "seeds": [0], "machine": {"accelerator": "cpu"}})
    run(recipe, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    machine = manifest["machine"]
    assert (machine["accelerator"], machine["threads"]) == ("cpu", 1)
    assert machine["profile"]
    assert machine["keep_freed_memory"]
    assert not machine.keys() & manifest["configuration"].keys()
    assert recipe_of(manifest) == recipe
    assert Store(tmp_path, arms_of(recipe)).is_complete(recipe)
    with pytest.raises(MetaLensError, match=r"of another run: machine\.threads was 1 and is 2;"):
        Store(tmp_path, []).is_complete(changed(recipe, {"machine": {"threads": 2}}))


def test_an_arm_is_named_with_its_sampler():
    recipe = replace(RECIPES["demo"], regularizers=["none", "TRLearner"], sampler=["Uniform", "HardMining"])
    texts = ("0", "MAML", "none", "HardMining", "TRLearner", "MAML + TRLearner+HardMining")
    found = [arms_of(recipe).index(arm_of(recipe, text)) for text in texts]
    assert found == [0, 0, 0, 1, 2, 3]
    with pytest.raises(MetaLensError, match=r"the run has 0: MAML; 1: MAML \+ HardMining; 2: "):
        arm_of(recipe, "Related")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 1.5}, "SinusoidRecipe: steps must be a whole number, got 1.5"),
        ({"steps": True}, "steps must be a whole number"),
        ({"steps": None}, "steps must have a value, got null"),
        ({"outer_lr": "fast"}, "outer_lr must be a number, got 'fast'"),
        ({"clip_norm": [1]}, "clip_norm must be a number or null"),
        ({"schedule": "step"}, "schedule must be constant or linear or cosine, got 'step'"),
        ({"seeds": [0, "one"]}, "seeds must be a list"),
        ({"hidden": 4}, "hidden must be a list, got 4"),
        ({"machine": {"speed": 3}}, "Machine has no setting 'speed'; it has accelerator, "),
        ({"machine": {"threads": "many"}}, "Machine: threads must be a whole number or null"),
        ({"machine": {"compile": "maybe"}}, "Machine: compile must be auto or true or false"),
        ({"machine": 3}, "machine must be settings by name, got 3"),
        ({"speed": 3}, "SinusoidRecipe has no setting 'speed'"),
    ],
)
def test_settings_of_a_wrong_type_are_one_sentence(settings, words):
    with pytest.raises(MetaLensError, match=words):
        changed(RECIPES["demo"], settings)


def test_settings_as_text_get_their_types():
    settings = {"outer_lr": "1e-3", "clip_norm": 1, "steps": "7", "n_train_tasks": "null"}
    recipe = changed(RECIPES["demo"], {**settings, "machine": {"compile": "false", "chunk": "3"}})
    assert (recipe.outer_lr, recipe.clip_norm, recipe.steps, recipe.n_train_tasks) == (0.001, 1.0, 7, None)
    assert (type(recipe.clip_norm), recipe.machine.compile, recipe.machine.chunk) == (float, False, 3)
