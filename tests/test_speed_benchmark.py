"""What the speed benchmark compares is the same computation; with the libraries that are installed here."""

from dataclasses import replace

import pytest

from metalens.experiments import RECIPES
from metalens.experiments.experiment import arms_of
from tools.speed import aims, evaluation, profile, regularized, replicas, scaling
from tools.speed.equality import DiffersError, Reference
from tools.speed.implementation import IMPLEMENTATIONS, load
from tools.speed.ours import Loop
from tools.speed.profile import Profiled
from tools.speed.report import extra_tables, replace_tables
from tools.speed.timing import interleaved
from tools.speed.workloads import Workload

CURVES = Workload("curves", "maml", n_tasks=3, width=8, inner_steps=2)
IMAGES = Workload("images", "maml", images=True, n_tasks=2, width=4, image_size=16, inner_lr=0.1)
SMALL = {
    "maml": CURVES,
    "first-order": replace(CURVES, first_order=True),
    "anil": replace(CURVES, method="anil"),
    "images-maml": IMAGES,
    "images-anil": replace(IMAGES, method="anil"),
    "images-protonet": replace(IMAGES, method="protonet"),
}


@pytest.mark.parametrize("workload", SMALL.values(), ids=SMALL)
# The compiled step is compared with the plain one in the contracts; compiling would take minutes here.
@pytest.mark.parametrize("name", [n for n in IMPLEMENTATIONS if load(n) is not None and "compiled" not in n])
def test_implementations_make_the_same_steps(name, workload):
    cls = load(name)
    if cls.refusal(workload) is None:
        Reference.of(workload).check(name, cls(workload))


def test_another_computation_is_refused():
    reference, other = Reference.of(CURVES), Loop(replace(CURVES, inner_steps=1))
    with pytest.raises(DiffersError, match="other does not compute the same loss"):
        reference.check("other", other)


def test_everybody_is_timed_in_every_round():
    calls = []
    times = interleaved({"a": calls.append, "b": calls.append}, rounds=3, seconds=0.0)
    assert {name: len(of) for name, of in times.items()} == {"a": 3, "b": 3}
    assert calls == [1] * 10


def test_tables_replace_tables(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n", encoding="utf-8")
    replace_tables(page, "new")
    assert page.read_text() == "before\n<!-- bench:begin -->\n\nnew\n<!-- bench:end -->\nafter\n"


@pytest.mark.filterwarnings("ignore:A prediction depends")  # of the others in its batch, as published
def test_evaluation_is_timed_on_equal_scores():
    times = evaluation.measure_one(replace(IMAGES, method="protonet"), rounds=2, seconds=0.0)
    assert [len(of) for of in times.values()] == [2, 2]


def test_regularized_steps_are_variants_of_one_step():
    for settings in regularized.variants(CURVES).values():
        regularized.outer_step(CURVES, settings)(1)


def test_replicas_are_timed():
    times = replicas.measure_one(CURVES, compiled=False, rounds=2, seconds=0.0)
    assert {name: len(of) for name, of in times.items()} == {"1 seed": 2, "10 seeds, side by side": 2}


def test_curves_are_drawn(tmp_path):
    curves = scaling.curves(CURVES, "n_tasks", (1, 2), rounds=1, seconds=0.0)
    scaling.draw(dict.fromkeys(scaling.PANELS, curves), tmp_path / "curves.svg")
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_the_pieces_of_a_step_add_up():
    recipe = replace(RECIPES["sinusoid-10shot"], hidden=[4], meta_batch_size=4)
    arms = {str(arm): profile.measure_arm(arm, Profiled(recipe), 2, 0.0) for arm in arms_of(recipe)}
    assert list(arms) == ["MAML", "MAML + TRLearner"]
    assert all(len(of) == 2 for times in arms.values() for of in times.values())
    for row in profile.shares(arms):
        assert row.pop(profile.WHOLE) > 0
        assert sum(row.values()) == pytest.approx(1.0)


def test_what_losses_take_longer_counts_to_the_regularizer():
    plain = {"batch": 1, "adaptation": 2, "losses": 6, "optimizer": 0, "whole step": 10}
    times = {"MAML": plain, "MAML + TRLearner": plain | {"losses": 12, "whole step": 20}}
    lines = extra_tables(
        {"profile": {"Curves": {k: {p: [s] for p, s in v.items()} for k, v in times.items()}}},
        {"profile": 1},
    )
    assert "| MAML | 1e+04 | 10.0% | 20.0% | 40.0% | 0.0% | 0.0% | 30.0% |" in lines
    assert "| MAML + TRLearner | 2e+04 | 5.0% | 10.0% | 20.0% | 30.0% | 0.0% | 35.0% |" in lines


def test_extra_tables_compare_with_their_first_row():
    lines = extra_tables({"startup": {"A fresh process": {"one": [0.1], "two": [0.2]}}}, {"startup": 1})
    assert "| two | 200 (200–200) | 2.00 |" in lines  # noqa: RUF001


def test_aims_are_met_or_missed():
    times = {"MetaLens, loop": [3.0], "MetaLens, vmap": [2.0], "higher": [110.0], "JAX, vmap": [1.0]}
    steps = [{"threads": 1, "workloads": {"sinusoid-maml-1": {"times": times, "flops": None}}}]
    extras = {
        "evaluation": {"600 tasks": {"one by one": [9.0], "evaluate": [1.0]}},
        "replicas": {"A step": {"1 seed": [1.0], "10 seeds": [2.5]}},
    }
    assert aims.table(steps, extras)[4:-1] == [
        "| Sinusoids, MAML, 1 step, 1 thread: the fastest loop of others | ≥ 50 × | 55 × | met |",
        "| Sinusoids, MAML, 1 step, 1 thread: against JAX | ≤ 1 × | 2 × | **missed** |",
        "| 600 tasks: one after the other | ≥ 10 × | 9 × | **missed** |",
        "| A step: 10 seeds against 1 | ≤ 3 × | 2.5 × | met |",
    ]
    assert aims.table([], {}) == []
