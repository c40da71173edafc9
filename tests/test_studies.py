"""Studies: tiny ones from end to end, and what they compute against formulas."""

import json
import shlex
import signal
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from metalens import MAML, MetaLensError, Sinusoid, mlp
from metalens.experiments.arms import arms_of
from paper import STUDIES, get_study
from paper.cli import main
from paper.cli.run import study_parser
from paper.comparison import any_gain, compare, every_gain, in_words, mean_interval, significant
from paper.complexity import GROUPS, difficulty
from paper.report import read_study, write_study_report
from paper.study import run_study
from paper.suite import SUITES, command_of, read_suite, run_suite

BASE = {"meta_batch_size": 3, "n_test_tasks": 8, "n_val_tasks": 3, "n_train_tasks": 8, "hidden": [4]}
TINY = {
    "trlearner-controls": {"baselines": ["FromScratch(inner_steps=2)"]},
    "trlearner-lambda": {"weights": [0.1, 1.0]},
    "trlearner-heads": {"heads": [1, 2]},
    "trlearner-batch": {"meta_batches": [3, 4]},
    "trlearner-relations": {"n_related": 5},
    "trlearner-test-time": {"known": 5},
    "trlearner-sampler": {"samplers": ["Uniform", "HardMining"]},
    "trlearner-tradeoff": {"regularizers": ["TRLearner", "MetaAug"]},
    "lens-complexity": {"observations": 2, "observed": 8},
    "theory-excess-risk": {"repetitions": 3, "samples": [2, 5], "tasks": [3, 5]},
    "theory-shared-features": {"repetitions": 3},
}


def tiny(name):
    settings = TINY[name] if name.startswith("theory") else {**TINY[name], "steps": 2, "base": BASE}
    return replace(get_study(name), seeds=[0, 1], **settings)


@pytest.fixture
def paper(monkeypatch, capsys, tmp_path):
    """The command line within this process: its status, what it printed, and its last words on mistakes."""

    def call(*words: str) -> SimpleNamespace:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        on_term, status = signal.getsignal(signal.SIGTERM), 0
        try:
            main(words)
        except SystemExit as ended:
            status = ended.code
        finally:
            signal.signal(signal.SIGTERM, on_term)
        told, errors = capsys.readouterr()
        return SimpleNamespace(status=status, told=told, error=errors.strip().rpartition("\n")[2])

    return call


# Whole studies


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_and_its_report_can_be_rewritten(name, tmp_path):
    run_study(tiny(name), tmp_path, command=f"python -m paper run {name}")
    again, tables, manifest = read_study(tmp_path)
    assert again == tiny(name)
    assert manifest["command"] == f"python -m paper run {name}"
    page = write_study_report(tmp_path).read_bytes()
    sentences = again.findings(tables)
    assert sentences
    assert "paper" in sentences[-1] or name in ("trlearner-controls", "trlearner-relations")
    assert all(sentence.endswith(".") for sentence in sentences)
    assert write_study_report(tmp_path).read_bytes() == page
    drawn = sorted((tmp_path / "figures").iterdir())
    assert len(drawn) == 2 * len(again.drawings(tables))
    summary = tables["summary"]
    assert {"panel", "series", "setting", "metric", "mean", "low", "high", "difference"} <= set(
        summary.columns
    )
    assert not summary.duplicated(["panel", "series", "setting", "metric"]).any()


@pytest.mark.parametrize("name", [name for name in STUDIES if not name.startswith("theory")])
def test_a_study_can_be_on_another_recipe(name):
    chosen = replace(tiny(name), on="harmonic-5shot", base={"hidden": [4]})
    for part in chosen.parts():
        assert part.recipe.name == "harmonic-5shot"
        assert (part.recipe.hidden, part.recipe.seeds) == ([4], [0, 1])


def test_points_with_equal_settings_share_a_run():
    assert len(tiny("trlearner-lambda").parts()) == 1
    assert [part.recipe.meta_batch_size for part in tiny("trlearner-batch").parts()] == [3, 4]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"on": "nonsense"}, "There is no recipe 'nonsense' to study on"),
        ({"base": {"speed": 3}}, "does not know or the study decides: speed"),
        ({"base": {"seeds": [0]}}, "does not know or the study decides: seeds"),
        ({"base": {"meta_batch_size": "many"}}, "meta_batch_size must be a whole number, got 'many'"),
        ({"base": {"meta_batch_size": 0}}, "meta_batch_size must be at least 1"),
        ({"seeds": []}, "seeds must name at least one"),
    ],
)
def test_wrong_settings_are_one_sentence(changes, words):
    with pytest.raises(MetaLensError, match=words):
        replace(get_study("trlearner-lambda"), **changes).parts()


def test_chosen_controls_are_trained_and_unknown_ones_refused():
    some = replace(
        tiny("trlearner-controls"), controls=["shuffled", "CrossTaskConfidencePenalty"], baselines=[]
    )
    assert [point.series for point in some.points()] == ["plain learner", "TRLearner", "shuffled"]
    with pytest.raises(MetaLensError, match=r"no controls named all-ones; choose from uniform, shuffled"):
        replace(some, controls=["all-ones"])


def test_a_training_that_diverges_is_a_point_without_a_mean(tmp_path):
    run_study(replace(tiny("trlearner-lambda"), weights=[0.1, 1e39]), tmp_path)
    chosen, tables, _ = read_study(tmp_path)
    lost = tables["summary"]["setting"] == 1e39
    assert tables["summary"].loc[lost, ["mean", "difference"]].isna().all(axis=None)
    assert np.isfinite(tables["summary"].loc[~lost, "mean"]).all()
    sentences = chosen.cautions(tables)
    assert "Training of TRLearner at 1e+39 diverged with seed 0 at step 1." in sentences
    assert sentences[-1].startswith("Without a mean, ")
    assert sentences[-1] in write_study_report(tmp_path).read_text()


def test_damaged_studies_are_one_sentence(tmp_path):
    run_study(tiny("theory-excess-risk"), tmp_path)
    (tmp_path / "summary.csv").unlink()
    with pytest.raises(MetaLensError, match=r"summary.csv is missing or damaged"):
        write_study_report(tmp_path)
    (tmp_path / "manifest.json").write_text(
        json.dumps({"study": "nonsense", "configuration": {}, "tables": []})
    )
    with pytest.raises(MetaLensError, match=r"There is no study 'nonsense'"):
        write_study_report(tmp_path)
    with pytest.raises(MetaLensError, match=r"absent/manifest.json is missing"):
        write_study_report(tmp_path / "absent")


def points(series, setting, values):
    rows = [(series, setting, seed, value) for seed, value in enumerate(values)]
    table = pd.DataFrame(rows, columns=["series", "setting", "seed", "value"])
    return table.assign(panel="p", task=0, metric="mse")


def test_points_are_compared_at_their_setting_or_with_the_only_reference():
    many = [points("plain", 1, [1, 2, 3]), points("plain", 2, [5, 5, 5]), points("term", 2, [4, 3, 5])]
    at_setting = compare(pd.concat(many), "plain").set_index(["series", "setting"])
    assert at_setting.loc[("term", 2), "difference"] == -1
    center, low, high = mean_interval(np.array([-1.0, -2.0, 0.0]))
    row = at_setting.loc[("term", 2)]
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((low, high))
    assert (center, row["verdict"]) == (-1, "no significant difference")
    assert at_setting["difference"].isna().tolist() == [True, True, False]
    only = compare(pd.concat([many[0], points("term", 7, [0, 1, 2])]), "plain")
    assert only["difference"].tolist()[1] == -1
    with pytest.raises(MetaLensError, match="nothing to be compared with"):
        compare(pd.concat([*many, points("term", 3, [1, 1, 1])]), "plain")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("5", "manifest.json is damaged: it must hold a JSON object"),
        (
            '{"study": "trlearner-lambda", "configuration": [], "tables": []}',
            "manifest.json is damaged: configuration missing or not",
        ),
        ('{"study": "trlearner-lambda", "configuration": {}, "tables": []}', "damaged or of another version"),
        ('{"study": "trlearner-lambda", "configuration": {}, "tables": ["summary"]}', "another version"),
    ],
)
def test_a_damaged_study_is_one_sentence(content, words, tmp_path):
    (tmp_path / "manifest.json").write_text(content)
    (tmp_path / "summary.csv").write_text("series\nplain\n")
    with pytest.raises(MetaLensError, match=words):
        write_study_report(tmp_path)


# The command line and suites


@pytest.mark.slow
def test_a_study_prints_what_it_found(paper, tmp_path):
    few = ["--base.n_test_tasks", "5", "--base.n_val_tasks", "0", "--base.hidden", "[4]"]
    words = ["trlearner-lambda", "--weights", "0.5", "--seeds", "0", "1", "--steps", "3", *few]
    done = paper("run", *words, "--out", "a")
    assert done.status == 0, done.error
    assert "of 1 weights of TRLearner" in done.told
    assert str(tmp_path / "a" / "report.html") in done.told
    page = (tmp_path / "a" / "report.html").read_bytes()
    assert paper("report", "a").told in done.told
    assert (tmp_path / "a" / "report.html").read_bytes() == page
    assert paper("run", *words, "--out", "a", "--resume").told in done.told
    assert "steps was 3 and is 4" in paper("run", *words, "--out", "a", "--resume", "--steps", "4").error
    printed = paper("run", *words, "--print_config")
    (tmp_path / "mine.yaml").write_text(printed.told)
    same = paper("run", "trlearner-lambda", "--config", "mine.yaml", "--out", "b")
    assert same.status == 0, same.error
    for name in ("results.csv", "curves.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "nonsense"], "invalid choice: 'nonsense'"),
        (["run", "trlearner-lambda", "--on", "nonsense"], "There is no recipe 'nonsense' to study on"),
        (["run", "trlearner-lambda", "--base.speed", "3"], "does not know or the study decides: speed"),
        (["run", "trlearner-lambda", "--weights", "-1"], "weight must be 0 or more"),
        (
            ["run", "trlearner-lambda", "--config", "mine.yaml"],
            "settings that trlearner-lambda does not know: step",
        ),
        (["run", "theory-excess-risk", "--tasks", "2"], "Excess risk needs at least 3 tasks"),
        (["suite", "nonsense"], "There is no suite 'nonsense'; choose from ablation, tradeoff"),
        (["suite", "ablation", "--size", "huge"], "has no size 'huge'; choose from smoke, small, full"),
        (["suite", "ablation", "--workers", "0"], "workers must be at least 1, got 0"),
        (["report", "absent"], "absent/manifest.json is missing"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(words, sentence, paper, tmp_path):
    (tmp_path / "mine.yaml").write_text("step: 3")
    done = paper(*words)
    assert done.status == 2
    assert done.error.startswith("metalens: ")
    assert sentence in done.error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_studies_and_suites_are_listed(paper):
    told = paper("list").told
    for name in (*STUDIES, *SUITES):
        assert name in told


@pytest.mark.slow
def test_a_suite_goes_on_after_a_failure_and_skips_what_is_done(tmp_path, monkeypatch):
    broken = replace(tiny("trlearner-lambda"), on="drug-kiba", base={"folder": str(tmp_path / "nowhere")})
    studies = {"risk": tiny("theory-excess-risk"), "broken": broken}
    ended = dict(run_suite(studies, tmp_path / "s", workers=1, threads=1))
    assert ended["risk"] == ""
    assert "kiba_kinases.csv.gz" in ended["broken"]
    _, _, manifest = read_study(tmp_path / "s" / "risk")
    assert manifest["command"] == command_of(studies["risk"])
    assert (tmp_path / "s" / "risk" / "report.html").is_file()
    before = (tmp_path / "s" / "risk" / "manifest.json").read_bytes()
    other = replace(studies["risk"], seeds=[0, 1, 2])
    assert dict(run_suite({"risk": studies["risk"]}, tmp_path / "s", workers=1, threads=1)) == {"risk": ""}
    assert (tmp_path / "s" / "risk" / "manifest.json").read_bytes() == before
    (reason,) = dict(run_suite({"risk": other}, tmp_path / "s", workers=1, threads=1)).values()
    assert "is of another run: seeds was [0, 1] and is [0, 1, 2]" in reason


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Found .* of Omniglot")  # a copy may lack some characters
@pytest.mark.parametrize("size", ["smoke", "small", "full"])
@pytest.mark.parametrize("name", SUITES)
def test_every_arm_of_the_suites_assembles(name, size, data_folder, monkeypatch):
    monkeypatch.setenv("METALENS_DATA", str(data_folder))
    for study in read_suite(name, size).values():
        for part in study.parts():
            for arm in arms_of(part.recipe):
                arm.build(part.recipe, seed=0).check_meta_batch_size(part.recipe.meta_batch_size, 1)


@pytest.mark.parametrize("name", SUITES)
def test_the_command_of_a_study_is_the_study(name):
    for study in read_suite(name, "small").values():
        words = shlex.split(command_of(study))
        assert words[:4] == ["python", "-m", "paper", "run"]
        choices = study_parser(get_study(words[4])).parse_args(words[5:]).as_dict()
        settings = {key: choices[key] for key in vars(study) if key in choices}
        assert replace(study, **settings) == study
        assert settings["seeds"] == study.seeds


# What studies compute


def test_verdicts_are_corrected_for_their_number():
    rows = pd.DataFrame({"p": [0.01, 0.04, 0.001], "verdict": ["better", "better", "worse"]})
    assert significant(rows, "better").index.tolist() == [0, 1]
    assert significant(rows.assign(p=[0.01, 0.06, 0.02]), "better").index.tolist() == [0]
    assert (any_gain(rows), every_gain(rows)) == (True, False)
    assert (any_gain(rows[2:]), any_gain(rows[1:2]), every_gain(rows[:2])) == (False, True, True)


def test_differences_are_said_with_their_direction():
    row = {"metric": "accuracy", "difference": 0.021, "difference_low": 0.01, "difference_high": 0.032}
    assert in_words(pd.Series(row)) == "accuracy higher by 2.10 points (95% interval 1.00 to 3.20)"
    undefined = pd.Series({**row, "difference_low": float("nan")})
    assert in_words(undefined) == "accuracy without a finite difference"


def test_difficulty_is_the_squared_gradient_of_the_support_loss():
    learner, tasks = MAML(mlp(hidden=[3])), Sinusoid("test", k_shot=5)
    found = difficulty(learner, tasks, n_tasks=4)
    for number in range(4):
        support = tasks[number].support
        loss = (learner.network(support.x) - support.y).square().mean()
        gradients = torch.autograd.grad(loss, list(learner.network.parameters()))
        assert found[number].item() == pytest.approx(
            sum(g.square().sum().item() for g in gradients), rel=1e-4
        )


def test_complexity_groups_are_quarters_of_falling_difficulty(tmp_path):
    run_study(tiny("lens-complexity"), tmp_path)
    tasks = pd.read_csv(tmp_path / "tasks.csv")
    for _, rows in tasks.groupby(["split", "seed"]):
        assert rows["group"].value_counts().to_dict() == dict.fromkeys(GROUPS, 2)
        lowest, highest = (rows.groupby("group")["difficulty"].agg(of)[list(GROUPS)] for of in ("min", "max"))
        assert (lowest.to_numpy()[:-1] >= highest.to_numpy()[1:]).all()
    curves = pd.read_csv(tmp_path / "curves.csv")
    assert sorted(curves["step"].unique()) == [1, 2]


def test_relations_are_of_every_stage_and_seed(tmp_path):
    run_study(tiny("trlearner-relations"), tmp_path)
    relations = pd.read_csv(tmp_path / "relations.csv")
    assert relations.groupby(["stage", "seed"]).size().tolist() == [25] * 8
    itself = relations[relations["row"] == relations["column"]]
    np.testing.assert_allclose(itself["relation"], 1, rtol=1e-5)
    before, learned = (relations[relations["stage"] == name] for name in ("before training", "learned"))
    assert np.abs(before["relation"].to_numpy() - learned["relation"].to_numpy()).max() > 1e-6
