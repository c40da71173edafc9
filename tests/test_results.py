"""From the files of a finished run to sentences, a table and a report."""

import html
import io
import json
import math
import re
import warnings
from itertools import product

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from metalens.errors import MetaLensError
from metalens.reports import arm_label, outcome, paired_differences, results_table, summarize, write_report
from metalens.reports.figures import relations as draw_relations
from metalens.statistics.arms import ARM

ARMS = [("MAML", text, "Uniform") for text in ("none", "TRLearner", "TRLearner(relation=Uniform)")]


def table(values, metric="mse", seeds=None):
    """Return results from arrays `(S, tasks)`, one per arm."""
    rows = [
        (*arm, seed if seeds is None else seeds[seed], "test", task, metric, value)
        for arm, array in zip(ARMS, values, strict=False)
        for (seed, task), value in np.ndenumerate(np.asarray(array, dtype=float))
    ]
    return pd.DataFrame(rows, columns=[*ARM, "seed", "split", "task", "metric", "value"])


def classification(generator, n_seeds, n_tasks, gains=(0, 0.03, 0.001)):
    base = generator.normal(0.6, 0.02, (n_seeds, 1)) + generator.normal(0, 0.05, (n_seeds, n_tasks))
    noise = [generator.normal(0, 0.006, (n_seeds, 1)) for _ in gains]
    accuracy = [(base + gain + shift).clip(0, 1) for gain, shift in zip(gains, noise, strict=True)]
    return pd.concat([table(accuracy, "accuracy"), table([2 - 1.5 * a for a in accuracy], "cross_entropy")])


def regression(generator, n_seeds, n_tasks, gains=(0, -0.06, 0.004)):
    base = generator.gamma(2, 0.25, (n_seeds, n_tasks)) + generator.normal(0, 0.02, (n_seeds, 1))
    return table([base + gain + generator.normal(0, 0.015, (n_seeds, 1)) for gain in gains])


def learning(generator, n_seeds, metric, steps=range(500, 20001, 500)):
    rows = []
    for (number, arm), seed in product(enumerate(ARMS), range(n_seeds)):
        pace = generator.normal(3000 - 300 * number, 200)
        for step in steps:
            loss = 0.4 + 3.5 * math.exp(-step / pace) + generator.normal(0, 0.03)
            value = 1 - loss / 5 if metric == "accuracy" else loss
            rows += [(*arm, seed, step, "train", "query", loss), (*arm, seed, step, "val", metric, value)]
            if "TRLearner" in arm[1]:
                rows.append((*arm, seed, step, "train", "trlearner", 0.1 * loss))
    return pd.DataFrame(rows, columns=[*ARM, "seed", "step", "split", "metric", "value"])


def sinusoids(generator):
    frames = []
    for task in range(4):
        amplitude, phase = generator.uniform(0.5, 5), generator.uniform(0, math.pi)
        support = generator.uniform(-5, 5, 10)
        for number, arm in enumerate(ARMS):
            for part, x in (("support", support), ("query", generator.permutation(np.linspace(-5, 5, 200)))):
                y = amplitude * np.sin(x - phase)
                after = y + 0.25 / (1 + number) * amplitude * np.cos(1.7 * x + task)
                frame = pd.DataFrame({"x": x, "y": y, "before": 0.4 * np.sin(x), "after": after})
                labels = dict(zip(ARM, arm, strict=True))
                frames.append(frame.assign(**labels, seed=0, task=task, part=part))
    return pd.concat(frames)


def relation_rows(generator, n_tasks=16):
    angles = generator.uniform(0, 0.5, n_tasks) + (np.arange(n_tasks) % 3) * 0.7
    frames = []
    for arm, matrix in zip(
        ARMS[1:], [np.cos(angles[:, None] - angles), np.ones((n_tasks, n_tasks))], strict=True
    ):
        rows, columns = np.indices(matrix.shape).reshape(2, -1)
        frame = pd.DataFrame({"row": rows, "column": columns, "relation": matrix.ravel()})
        frames.append(frame.assign(**dict(zip(ARM, arm, strict=True)), seed=0))
    return pd.concat(frames)


def write_run(folder, kind="regression", n_seeds=3, n_tasks=30):
    """Write the files of a finished run."""
    generator = np.random.default_rng(0)
    metric = {"regression": "mse", "classification": "accuracy"}[kind]
    results = {"regression": regression, "classification": classification}[kind](generator, n_seeds, n_tasks)
    tables = {"results": results.assign(recipe="demo"), "metrics": learning(generator, n_seeds, metric)}
    if kind == "regression":
        tables |= {"curves": sinusoids(generator), "relations": relation_rows(generator)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in tables.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    manifest = {
        "metalens": "0.1.0",
        "recipe": "demo",
        "description": "MAML on sinusoids <with> and without the task-relation term & its uniform control.",
        "command": "metalens run demo --seeds " + " ".join(map(str, range(n_seeds))),
        "configuration": {"seeds": list(range(n_seeds)), "steps": 20000, "inner_lr": 0.01, "clip_norm": None},
        "machine": {"threads": 2, "precision": "32-true"},
        "arms": [
            {
                **dict(zip(ARM, arm, strict=True)),
                "settings": f"{arm[0]}(inner_lr=0.01, steps=1), regularizers: {arm[1]}",
                "parameters": 1761,
            }
            for arm in ARMS
        ],
        "versions": {"python": "3.12.3", "torch": "2.9.0", "metalens": "0.1.0"},
        "commit": None,
        "device": "cpu",
        "threads": 2,
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 754.2,
        "failures": [],
        "cells": [
            {
                **dict(zip(ARM, arm, strict=True)),
                "seed": seed,
                "train_seconds": 40.0 + seed,
                "test_seconds": 2.5,
            }
            for arm, seed in product(ARMS, range(n_seeds))
        ],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def text_of(path):
    """Return the words of a page."""
    page = re.sub(r"<style>.*?</style>", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_interval_is_scipys_over_seed_means():
    values = np.random.default_rng(1).normal(1, 0.3, (5, 20))
    row = summarize(table([values])).iloc[0]
    expected = stats.ttest_1samp(values.mean(1), 0).confidence_interval(0.95)
    assert (row["n_seeds"], row["n_tasks"], row["diverged"]) == (5, 20, 0)
    np.testing.assert_allclose([row["low"], row["high"]], expected)
    np.testing.assert_allclose([row["mean"], row["median"]], [values.mean(), np.median(values)])


def test_difference_is_scipys_paired_test_over_seed_means():
    generator = np.random.default_rng(2)
    base, other = generator.normal(1, 0.3, (2, 6, 20))
    results = table([base, other]).sample(frac=1, random_state=0)  # pairing is by task, not by place
    row = paired_differences(results, baseline=ARMS[0]).iloc[0]
    test = stats.ttest_rel(other.mean(1), base.mean(1))
    np.testing.assert_allclose([row["low"], row["high"]], test.confidence_interval(0.95))
    np.testing.assert_allclose(row["p"], test.pvalue)
    np.testing.assert_allclose(row["difference"], (other - base).mean())
    np.testing.assert_allclose(row["relative"], (other - base).mean() / base.mean())


def test_single_seed_takes_tasks_as_replicates():
    base, other = np.random.default_rng(3).normal(1, 0.3, (2, 1, 40))
    results = table([base, other])
    expected = stats.ttest_1samp(base[0], 0).confidence_interval(0.95)
    np.testing.assert_allclose(summarize(results).loc[0, ["low", "high"]].tolist(), expected)
    expected = stats.ttest_rel(other[0], base[0])
    np.testing.assert_allclose(paired_differences(results)["p"], expected.pvalue)


@pytest.mark.slow
def test_intervals_cover_the_true_mean_in_95_of_100_cases():
    generator, covered = np.random.default_rng(4), 0
    for _ in range(400):
        seeds = generator.normal(0, 1, (4, 1))  # seeds differ more than tasks: tasks are no replicates
        row = summarize(table([seeds + generator.normal(0, 1, (4, 10))])).iloc[0]
        covered += row["low"] <= 0 <= row["high"]
    assert 0.92 < covered / 400 < 0.98


@pytest.mark.parametrize("value", [0.1, 0.0, 1 / 3])
def test_no_variance_gives_an_interval_of_no_width(value):
    base = np.random.default_rng(5).normal(2, 0.5, (3, 7))
    row = summarize(table([np.full((3, 7), value)])).iloc[0]
    np.testing.assert_allclose([row["low"], row["high"]], value)
    row = paired_differences(table([base, base + value])).iloc[0]
    np.testing.assert_allclose([row["low"], row["high"]], value, atol=1e-12)
    assert math.isnan(row["p"])
    assert row["verdict"] == ("worse" if value else "no significant difference")


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_diverged_tasks_are_not_hidden(bad):
    base = np.random.default_rng(6).normal(2, 0.5, (3, 10))
    other = base - 1
    other[1, :2] = bad
    summary = summarize(table([base, other]))
    assert not math.isfinite(summary["mean"][1])
    assert math.isnan(summary["low"][1])
    assert summary["diverged"].tolist() == [0, 2 / 30]
    worst = np.where(np.isfinite(other), other, math.inf)
    np.testing.assert_allclose(summary["median"][1], np.median(worst))
    paired = paired_differences(table([base, other]))
    assert paired["verdict"].tolist() == ["undefined"]
    assert (
        "cannot be compared with MAML in mean mse: training or adaptation diverged"
        in outcome(summary, paired)[0]
    )


def test_both_diverged_is_undefined():
    values = np.ones((2, 3))
    values[0, 0] = math.inf
    paired = paired_differences(table([values, values]))
    assert paired[["difference", "low", "relative"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("metric", "verdicts"), [("mse", ["better", "worse"]), ("accuracy", ["worse", "better"])]
)
def test_verdict_knows_the_good_direction(metric, verdicts):
    base, noise = np.random.default_rng(7).normal(0.5, 0.01, (2, 5, 10))
    paired = paired_differences(table([base, base - 0.7 + noise, base - 0.3 + noise], metric))
    assert paired["verdict"].tolist() == verdicts


def test_differences_need_the_same_tasks():
    results = table([np.ones((2, 3)), np.ones((2, 3))])
    with pytest.raises(MetaLensError, match=r"1 have a mse for only one of them \(first: seed 1, task 2\)"):
        paired_differences(results.drop(index=results.index[-1]))
    with pytest.raises(MetaLensError, match="got several for seed 1, task 2"):
        paired_differences(pd.concat([results, results.tail(1)]))
    with pytest.raises(MetaLensError, match="same metrics, got cross_entropy and mse"):
        paired_differences(pd.concat([results.head(6), results.tail(6).assign(metric="cross_entropy")]))
    with pytest.raises(MetaLensError, match=r"an arm of the results \(MAML, MAML \+ TRLearner\), got ANIL"):
        paired_differences(results, baseline=("ANIL", "none", "Uniform"))


def test_single_arm_has_no_differences():
    results = table([np.array([[1.0, 2.0], [2.0, 3.0]])])
    assert paired_differences(results).empty
    assert outcome(summarize(results), paired_differences(results)) == [
        "On 2 seeds × 2 test tasks, MAML has a mean mse of 2.0 (95% interval −4.4 to 8.4)."
    ]


def test_outcome_says_what_came_out_in_plain_words():
    results = classification(np.random.default_rng(0), 5, 100)
    first, second = outcome(summarize(results), paired_differences(results))
    assert re.fullmatch(
        r"On 5 paired seeds × 100 test tasks, MAML \+ TRLearner has a higher accuracy than MAML by [\d.]+ "
        r"percentage points \(95% interval [\d.]+ to [\d.]+\)\.",
        first,
    )
    assert "shows no significant difference in accuracy from MAML: " in second


def test_the_outcome_of_many_arms_is_told_by_verdicts():
    rng = np.random.default_rng(0)
    own = rng.normal(1, 0.01, (5, 20))
    shifts = {
        "MAML": 0,
        "ANIL": -0.5,
        **{f"TNet(inner_lr={i})": 0.3 for i in range(1, 5)},
        "Ridge": np.nan,
        "R2D2": 0,
    }
    frames = []
    for learner, shift in shifts.items():
        noise = rng.normal(0, 0.01, own.shape) if learner == "R2D2" else 0
        frames.append(table([own + shift + noise]).assign(learner=learner))
    results = pd.concat(frames, ignore_index=True)
    assert outcome(summarize(results), paired_differences(results)) == [
        "On 5 paired seeds × 20 test tasks, 7 arms are compared with MAML in mse.",
        "Better (1): ANIL.",
        "Worse (4): TNet(inner_lr=1), TNet(inner_lr=2), TNet(inner_lr=3), TNet(inner_lr=4).",
        "No significant difference (1).",
        "Undefined (1): Ridge.",
        "The best mean is 0.5008, that of ANIL.",
    ]


@pytest.mark.parametrize("make", [regression, classification])
def test_console_table_fits_100_columns(make):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(results_table(make(np.random.default_rng(0), 5, 50)))
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert "differences to MAML." in " ".join(text.split())
    for learner, *_ in ARMS:
        assert learner in text


@pytest.mark.slow
def test_report_of_a_regression_run(tmp_path):
    folder = write_run(tmp_path / "run")
    report = write_report(folder)
    assert report == folder / "report.html"
    text = text_of(report)
    for words in (
        "On 3 paired seeds × 30 test tasks, MAML + TRLearner",
        "Only 3 seeds: intervals are wide",
        "three 95% intervals of the mean",
        "p (Wilcoxon, tasks)",
        "most behind MAML",
        "metalens report DIR --format latex",
        "metalens run demo --seeds 0 1 2",
        "20,000 outer steps",
        "12 min 34 s",
        "sinusoids <with> and without the task-relation term & its",
        "differences are to MAML",
        "The replicate is the seed",
        "Before and after adaptation",
        "hierarchical clustering",
        "1,761",
        "clip_norm none",
    ):
        assert words in text
    assert "Diverged tasks" not in text
    names = {"differences", "learning-curves", "predictions", "relations", "tradeoff"}
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("png", "svg")
    }
    page = report.read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml;base64,") == len(names)
    assert not re.search(r"(src|href)=\"(?!data:)|<script|@import|url\(", page)


def test_report_of_a_classification_run(tmp_path):
    folder = write_run(tmp_path, "classification", n_seeds=1)
    text = text_of(write_report(folder))
    assert "accuracy in %, higher is better" in text
    assert "cross_entropy, lower is better" in text
    assert "There is a single seed, so the replicate is the test task" in text
    assert "Before and after adaptation" not in text
    assert "Task relations" not in text


@pytest.mark.slow
def test_report_says_which_arms_diverged(tmp_path):
    folder = write_run(tmp_path)
    results = pd.read_csv(folder / "results.csv")
    results.loc[results.index[-1], "value"] = math.inf
    results.to_csv(folder / "results.csv", index=False)
    text = text_of(write_report(folder))
    assert "test tasks (1.1%), so its mean mse is" in text
    assert "∞ n/a" in text


@pytest.mark.slow
def test_same_files_give_the_same_report(tmp_path):
    folders = [write_run(tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        write_report(folder)
    files = sorted(path.relative_to(folders[0]) for path in folders[0].rglob("*") if path.is_file())
    assert len(files) == 16
    for file in files:
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes(), file


@pytest.mark.parametrize("name", ["results.csv", "metrics.csv", "manifest.json"])
def test_folder_without_a_file_is_not_a_finished_run(tmp_path, name):
    folder = write_run(tmp_path / "run")
    (folder / name).unlink()
    with pytest.raises(MetaLensError, match=rf"run is not a finished run: {re.escape(name)} is missing\.$"):
        write_report(folder)
    with pytest.raises(MetaLensError, match="nowhere is not a finished run"):
        write_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.csv", "", "No columns"),
        ("results.csv", 'learner\n"MAML', "EOF"),
        (
            "results.csv",
            "learner,regularizers,sampler,seed\nMAML,none,Uniform,0\n",
            "lacks split, metric, task, value",
        ),
        ("results.csv", "learner,regularizers,sampler,seed,split,task,metric,value\n", "no rows"),
        (
            "results.csv",
            "learner,regularizers,sampler,seed,split,task,metric,value\nMAML,none,Uniform,0,test,0,mse,x\n",
            "value has",
        ),
        (
            "results.csv",
            "learner,regularizers,sampler,seed,split,task,metric,value\nMAML,,Uniform,0,test,0,mse,1\n",
            "empty cells",
        ),
        ("curves.csv", "learner\nMAML\n", "lacks regularizers, sampler, part, seed"),
        (
            "metrics.csv",
            "learner,regularizers,sampler,seed,step,split,metric,value\nMAML,none,Uniform,0,inf,val,mse,1\n",
            "step has numbers beyond all measure",
        ),
        ("manifest.json", "[" * 100_000, "recursion"),
        ("manifest.json", "{", "Expecting"),
        ("manifest.json", "[]", "JSON object"),
        ("manifest.json", '{"recipe": "demo", "arms": [{}]}', "metalens, description, .*, arms, .* missing"),
    ],
)
def test_damaged_file_is_named(tmp_path, name, content, message):
    folder = write_run(tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(MetaLensError, match=f"{re.escape(name)} is damaged.*{message}"):
        write_report(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"seconds": math.nan}, {"cells": []}, {"arms": []}, {"seconds": math.inf}]
)
def test_report_does_without_what_the_manifest_lacks(tmp_path, change):
    folder = write_run(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    assert write_report(folder).is_file()


@pytest.mark.parametrize(
    ("change", "name"),
    [({"cells": [{"seed": 0}]}, "cells"), ({"arms": [{"learner": "MAML", "parameters": "many"}]}, "arms")],
)
def test_wrong_entries_of_the_manifest_are_named(tmp_path, change, name):
    folder = write_run(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(MetaLensError, match=f"manifest.json is damaged: {name} missing or not as expected"):
        write_report(folder)


@pytest.mark.slow
def test_exploded_scores_have_no_interval_and_no_warning(tmp_path):
    folder = write_run(tmp_path)
    results = pd.read_csv(folder / "results.csv")
    results.loc[results.index[-1], "value"] = 1e300
    results.to_csv(folder / "results.csv", index=False)
    assert math.isnan(summarize(results)["low"].iloc[-1])
    assert "n/a" in text_of(write_report(folder))


def test_relations_must_be_a_square_matrix():
    rows = relation_rows(np.random.default_rng(0))
    with pytest.raises(MetaLensError, match=r"MAML \+ TRLearner, got 255 rows for 16 by 16 tasks"):
        draw_relations(rows.iloc[1:])


def test_label():
    assert [arm_label(*arm) for arm in ARMS[:2]] == ["MAML", "MAML + TRLearner"]
