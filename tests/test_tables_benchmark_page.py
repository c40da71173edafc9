"""The results of the benchmark of tables: kept, compared and told on its page."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tools.tables import cell, compare, page, results
from tools.tables.ours import DEFAULT
from tools.tables.results import Cell, Selection


def fake(folder, tables=("sleepstudy",), own=0.5):
    """Results of the default, of one that is better, and of one that is worse on every task."""
    rng = np.random.default_rng(0)
    selection = Selection(tables, [0, 1], ["metalens", "mixed"], [5], 1)
    for one in results.cells(selection):
        rows = [{"task": f"{one.fold}-{n}", "k": 5, "draw": 0, "n": 4, "mse": 1.0} for n in range(10)]

        def method(skill, rows=rows):
            found = [{**row, "skill": skill + 0.01 * rng.normal()} for row in rows]
            return {"fit": 1.0, "predict": 0.1, "note": "", "errors": {}, "absent": {}, "scores": found}

        methods = {"metalens": {DEFAULT: own}, "mixed": {"better": 0.6, "worse": 0.4}}[one.family]
        facts = {"commit": "abc", "error": None, "peak_mib": 100.0, "k": [5], "draws": 1}
        cell.write(one.path(folder), facts | {"methods": {name: method(s) for name, s in methods.items()}})
    return selection


FACTS = {"processor": "a processor", "cores": "2", "versions": "Python 3", "commit": "abc"}


def test_the_page_has_the_coverage_of_intervals(tmp_path):
    selection = fake(tmp_path)
    assert "## Intervals\n\nNone was measured." in page.page(selection, tmp_path, FACTS, "", "")
    shares = np.tile([0.5, *[0.9] * 6, *[1.0] * 3], 2)
    for number in (0, 1):
        one = Cell("sleepstudy", number, "metalens")
        found = one.read(tmp_path)
        for row, share in zip(found["methods"][DEFAULT]["scores"], shares, strict=False):
            row |= {"inside": share, "width": 1.0}
        cell.write(one.path(tmp_path), found)
    half = 1.96 * shares.std(ddof=1) / np.sqrt(20)
    assert f"| sleepstudy | 89 ± {100 * half:.0f} (86) |" in page.page(selection, tmp_path, FACTS, "", "")


def test_the_page_says_where_metalens_is_behind_and_ahead(tmp_path):
    selection = fake(tmp_path)
    text = page.page(selection, tmp_path, FACTS, "2026-01-01", "command")
    assert "- sleepstudy, k = 5: behind better (**−0.10" in text
    assert "| sleepstudy | 5 | 20 |" in text
    assert "**behind 1**, ahead of 1 of 2" in text
    assert "ahead of all outside methods in 0, and behind at least one in 1:" in text
    assert "| worse | **+0.1" in text
    assert "## What failed\n\nNothing." in text


def test_the_page_says_what_failed_and_what_is_missing(tmp_path):
    selection = fake(tmp_path)
    broken = Cell("sleepstudy", 0, "mixed")
    found = broken.read(tmp_path) | {"error": "MemoryError: too much", "methods": {}}
    cell.write(broken.path(tmp_path), found)
    Cell("sleepstudy", 1, "mixed").path(tmp_path).unlink()
    text = page.page(selection, tmp_path, FACTS, "2026-01-01", "command")
    assert "- sleepstudy, fold 0, mixed: `MemoryError: too much`" in text
    assert "**Not run yet, or not for all k: 1 of 4 trainings.**" in text


def test_a_method_without_all_tasks_is_not_compared(tmp_path):
    selection = fake(tmp_path)
    scored = results.scores(selection, tmp_path)
    scored = scored[(scored["method"] != "better") | (scored["fold"] == 0)]
    shared = compare.comparable(compare.by_task(scored, "skill"))
    found = compare.leads(shared, compare.MEASURES["number"])
    assert list(found["method"]) == ["worse"]
    assert list(found["verdict"]) == ["ahead"]


def test_the_page_says_where_metalens_has_no_result(tmp_path):
    selection = fake(tmp_path)
    own = Cell("sleepstudy", 0, "metalens")
    cell.write(own.path(tmp_path), own.read(tmp_path) | {"error": "MetaLensError: few", "methods": {}})
    text = page.page(selection, tmp_path, FACTS, "2026-01-01", "command")
    assert "- sleepstudy, k = 5: **MetaLens has no result for 10 of 20 tasks**." in text
    assert "| sleepstudy | 5 | 10 |" in text
    assert "- sleepstudy, fold 0, metalens: `MetaLensError: few`" in text


def test_leads_are_paired_differences_and_positive_where_the_default_is_better():
    rng = np.random.default_rng(0)
    of_task = pd.DataFrame(rng.normal(size=(12, 2)), columns=[DEFAULT, "other"])
    of_task.index.name = "task"
    for measure in compare.MEASURES.values():
        (row,) = compare.leads(of_task, measure).itertuples()
        gains = measure.sign * (of_task[DEFAULT] - of_task["other"])
        low, high = stats.ttest_1samp(gains, 0).confidence_interval()
        assert (row.lead, row.low, row.high) == pytest.approx((gains.mean(), low, high))


def test_cached_results_are_not_run_again(tmp_path):
    selection = fake(tmp_path)
    found = Cell("sleepstudy", 0, "mixed").read(tmp_path)
    assert results.is_done(found, selection, retry=True)
    assert not results.is_done(found, selection._replace(k=[5, 10]), retry=False)
    assert not results.is_done(found, selection._replace(draws=2), retry=False)
    assert not results.is_done(None, selection, retry=False)
    failed = found | {"error": "MemoryError: too much"}
    assert results.is_done(failed, selection, retry=False)
    assert not results.is_done(failed, selection, retry=True)


def test_only_what_is_missing_is_run(tmp_path, monkeypatch, capsys):
    from tools.tables import __main__ as main

    selection = fake(tmp_path)
    lost = Cell("sleepstudy", 1, "mixed")
    lost.path(tmp_path).unlink()
    ran = []
    monkeypatch.setattr(main, "child", lambda cell, *_: ran.append(cell) or cell)
    main.run(selection, tmp_path, 2, 1.0, retry=False)
    assert ran == [lost]
    assert "sleepstudy, fold 1, mixed: no file" in capsys.readouterr().err


def test_molecules_are_not_for_mixed_models():
    assert not results.fits("kiba", "mixed")
    assert results.fits("kiba", "task")
    assert results.fits("verbagg", "mixed")


def test_a_process_that_ends_leaves_the_reason(tmp_path, monkeypatch):
    from tools.tables import __main__ as main

    ended = SimpleNamespace(returncode=-11, stderr=b"first\nlast")
    monkeypatch.setattr(main.subprocess, "run", lambda *_, **__: ended)
    one = main.child(Cell("exam", 0, "gpboost"), Selection(["exam"], [0], ["gpboost"], [5], 1), tmp_path, 1.0)
    found = json.loads(one.path(tmp_path).read_text())
    assert found["error"] == "Ended: with -11, last"
    assert found["k"] == [5]
