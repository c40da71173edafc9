"""The card of a model: the numbers of the model, and names that no reader of Markdown interprets."""

import json
import math
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from scipy import stats

from metalens import MetaClassifier, MetaLensError, MetaRegressor
from metalens.estimators import card, draws, load_model
from metalens.estimators.card import code
from metalens.estimators.report import card_as_html

HOSTILE = [
    "<script>alert(1)</script>",
    "a|b",
    "`tick` ``two`` `",
    "[x](javascript:alert(1))",
    "![x](https://example.org/x.png)",
    "# head\n## head\r\n\x07- item",
    "*a* _b_ ~~c~~ https://example.org www.example.org",
    "```",
    "\\`",
    "&lt;b&gt; &amp;",
    "|",
    " ",
    "",
    "x" * 500,
]


@pytest.fixture(autouse=True)
def _little_to_do(monkeypatch):
    monkeypatch.setattr(draws, "MIN_DRAWS", 3)
    monkeypatch.setattr(draws, "SHOTS", (2,))


def sensors(n=16, rows=8, voltage="voltage", task="sensor", target="pressure"):
    rng = np.random.default_rng(0)
    sensor = np.repeat(np.arange(n), rows)
    frame = pd.DataFrame({task: [f"s{number}" for number in sensor], voltage: rng.normal(size=n * rows)})
    frame[target] = frame[voltage] * (1 + sensor % 3) + rng.normal(size=n * rows)
    return frame


def fitted(kind=MetaRegressor, frame=None, task="sensor", target="pressure", how=None, **settings):
    settings = {"hidden": (8,), "steps": 2, "baselines": ("Ridge", "MeanPredictor")} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the fall-back
        return kind(**settings).fit(
            sensors() if frame is None else frame, task=task, target=target, **how or {}
        )


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "MIN_DRAWS", 3)
        return fitted(frame=sensors(60), steps=30)


def tables(text):
    """The tables of a page as a reader of Markdown shows them, by their first head."""
    tokens, found, rows = MarkdownIt("gfm-like", {"linkify": False}).parse(text), {}, []
    for place, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append("".join(part.content for part in tokens[place + 1].children or []))
        elif token.type == "table_close":
            found.setdefault(rows[0][0], []).append(rows)
            rows = []
    return {name: of[0] for name, of in found.items()}


def test_scores_are_means_with_student_intervals(model):
    ((head, *heads), *rows) = tables(card.model_card(model))["model"]
    assert head == "model"
    assert [name.partition(",")[0] for name in heads] == list(dict.fromkeys(model.comparison_.metric))
    for name, *cells in rows:
        for head, cell in zip(heads, cells, strict=True):
            of = model.comparison_
            values = of[(of.model == name) & (of.metric == head.partition(",")[0])].value.to_numpy()
            half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
            low, high = values.mean() - half, values.mean() + half
            shown = [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", cell)]
            np.testing.assert_allclose(shown, [values.mean(), low, high], rtol=6e-3, atol=1e-9)


def test_the_numbers_of_tasks_and_rows_are_those_of_the_table(model):
    head, *rows = tables(card.model_card(model))["part"]
    assert head == ["part", "tasks", "rows"]
    assert [name for name, *_ in rows] == ["training", "validation", "comparison"]
    tasks, of_rows = (sum(int(row[place]) for row in rows) for place in (1, 2))
    assert (tasks, of_rows) == (60, 480)


def test_coverage_is_that_of_intervals_whose_width_other_tasks_decided(model):
    text, residuals = card.model_card(model), model._choices[model.k_shot_].residuals
    held = []
    for out in range(len(residuals)):  # fewer than 20: each in turn
        others = [of for place, of in enumerate(residuals) if place != out]
        sizes, weights = (
            np.concatenate(others),
            np.concatenate([np.full(len(of), 1 / len(of)) for of in others]),
        )
        order = np.argsort(sizes)
        place = np.searchsorted(np.cumsum(weights[order]), 0.9 * (len(others) + 1) - 1e-9)
        held.append((residuals[out] <= sizes[order][min(place, len(sizes) - 1)]).mean())
    assert len(residuals) <= 20
    assert f"held {np.mean(held):.0%} of the targets, and in the worst task {min(held):.0%}" in text


def test_few_held_out_tasks_are_said():
    text = card.model_card(fitted())
    assert "With only 4 held-out tasks, another division may give another order of models." in text
    assert "There were too few held-out tasks, 4, to say" in text


def test_settings_and_versions_are_listed(model):
    found = tables(card.model_card(model))
    assert dict(found["setting"][1:])["steps"] == "30"
    assert dict(found["package"][1:]).keys() == {
        "python",
        "metalens",
        "torch",
        "scikit-learn",
        "pandas",
        "numpy",
    }


def test_classes_that_tasks_share_and_new_ones():
    frame = sensors(20)
    frame["pressure"] = np.where(frame.pressure > 0, "high", "low")
    shared = card.model_card(fitted(MetaClassifier, frame, baselines=("KNN",)))
    assert "One of the classes `high`, `low` of the column `pressure`" in shared
    assert "Predictions of classes have probabilities" in shared
    new = card.model_card(fitted(MetaClassifier, sensors(12), None, "sensor", baselines=("KNN",)))
    assert "Classes, the column `sensor`, which are new in each task" in new
    assert tables(new)["part"][0][:2] == ["part", "examples"] or "classes" in tables(new)["part"][0]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_literal_text(name):
    shown = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    shown = shown if len(shown) <= 80 else shown[:79] + "…"
    for text in (code(name), card._table(["head"], [[code(name)]])):
        tokens = MarkdownIt("gfm-like", {"html": True}).disable("linkify").parse(text)
        parts = [part for token in tokens for part in token.children or []]
        parts = [part for part in parts if part.content != "head"]
        assert {part.type for part in parts} == {"code_inline"}
        assert [part.content.strip() for part in parts] == [shown]


def test_hostile_columns_tasks_and_baselines_stay_text(tmp_path):
    voltage, task, target = "<img src=x onerror=alert(1)>|", "**`task`**", "[t](javascript:x)"
    roles = {"voltage": voltage, "task": task, "target": target}
    fitted(frame=sensors(**roles), task=task, target=target).save(tmp_path / "model")
    text = (tmp_path / "model" / "README.md").read_text("utf-8")
    tokens = MarkdownIt("gfm-like", {"html": True}).disable("linkify").parse(text)
    assert not [token for token in tokens if token.type.startswith("html")]
    parts = [part for token in tokens for part in token.children or []]
    assert {part.type for part in parts} <= {"text", "code_inline", "softbreak"}
    named = [part.content.strip() for part in parts if part.type == "code_inline"]
    assert {voltage, task, target} <= set(named)


def test_the_card_is_written_and_says_the_same_after_loading(tmp_path, model):
    model.save(tmp_path / "model")
    text = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert text == card.model_card(model) == card.model_card(load_model(tmp_path / "model"))
    assert not re.search(r"\bnan\b|None\b.*%", text)


def test_folders_without_a_card_and_without_sizes_are_read(tmp_path, model):
    model.save(tmp_path / "model")
    (tmp_path / "model" / "README.md").unlink()
    path = tmp_path / "model" / "model.json"
    facts = json.loads(path.read_text("utf-8"))
    del facts["data_sizes"]
    path.write_text(json.dumps(facts), "utf-8")
    again = load_model(tmp_path / "model")
    new = sensors(1)
    assert (again.adapt(new[:4]).predict(new[4:]) == model.adapt(new[:4]).predict(new[4:])).all()
    assert "were not saved with this model" in card.model_card(again)


@pytest.mark.parametrize("sizes", [[], {"train": 3}, {"other": {"rows": 3}}, {"train": {"rows": "many"}}])
def test_damaged_sizes_are_refused(tmp_path, model, sizes):
    model.save(tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"data_sizes": sizes}), "utf-8")
    with pytest.raises(MetaLensError, match="is damaged"):
        load_model(tmp_path / "model")


def test_scores_that_are_not_finite():
    assert card._score(math.nan, "r2") == card._score(math.inf, "rmse") == "n/a"
    assert card._score(0.12345, "accuracy") == "12.3%"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_report_shows_the_card_without_tags_from_it(text):
    page = card_as_html(f"# Card\n\n## Limits\n\n{text}\n\n- {code(text)}\n\n## Scores\n\nleft out\n")
    tags = set(re.findall(r"</?(\w+)([^>]*)>", page))
    known = (
        "h1",
        "h2",
        "h3",
        "p",
        "ul",
        "li",
        "code",
        "pre",
        "em",
        "strong",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
    )
    assert {name for name, _ in tags} <= {*known, "td"}
    assert not any(attributes for _, attributes in tags)
    assert page.startswith("<h3>Limits</h3>")
    assert "left out" not in page
