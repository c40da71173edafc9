"""The report of a finished run, and the files that it is written from."""

import html
import json
import math
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from small_run import relation_rows, write_run

from metalens.errors import MetaLensError
from metalens.reports import summarize, write_report
from metalens.reports.figures import relations as draw_relations


def text_of(path):
    """Return the words of a page."""
    page = re.sub(r"<style>.*?</style>", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


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
