"""Sweeps: without any look at test tasks, ended early, told in a report, or refused."""

import re
import shlex
import sys
from dataclasses import asdict, replace
from functools import partial

import optuna
import pandas as pd
import pytest
import yaml
from small_sweep import QUICK, RATES, RECIPE, small_sweep

from metalens import Sinusoid
from metalens.errors import MetaLensError
from metalens.evaluation import Validation
from metalens.experiments.arms import arms_of
from metalens.experiments.sweeps.report import outcome_in_words, read_result, write_sweep_report
from metalens.experiments.sweeps.sweep import SweepWatcher, score, sealed, search
from metalens.experiments.sweeps.trials import DATABASE
from metalens.training.fit import fit


@pytest.fixture
def sweep(tmp_path):
    """A small sweep: `sweep(space, n_trials, settings of the recipe or the sweep)`."""
    return partial(small_sweep, tmp_path)


def options(**settings) -> list[str]:
    """Return the quick settings as options of the command line."""
    words = []
    for name, value in {**QUICK, **settings}.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


# From the sweep to the test


@pytest.mark.slow
def test_a_sweep_sees_no_test_task_and_its_best_settings_run(metalens_here, tmp_path, monkeypatch):
    drawn = set()
    begin = Sinusoid.__init__

    def note(self, split="train", **settings):
        drawn.add(split)
        begin(self, split, **settings)

    monkeypatch.setattr(Sinusoid, "__init__", note)
    (tmp_path / "space.yaml").write_text(f"{RATES[:-1]}, meta_batch_size: [4, 8], hidden: [[4], [3, 3]]}}")
    words = ["sweep", "demo", *options(), "--space", "space.yaml", "--trials", "3"]
    done = metalens_here(*words, "--out", "a")
    assert done.returncode == 0, done.stderr
    assert drawn == {"train", "val"}
    trials = pd.read_csv(tmp_path / "a" / "trials.csv")
    assert trials["state"].tolist() == ["complete"] * 3
    assert trials["steps"].tolist() == [4] * 3
    best = trials.loc[trials["score"].idxmin()]
    told = " ".join(done.stdout.split())
    assert f"Best is trial {best['trial']} with " in told
    command = next(line for line in done.stdout.splitlines() if line.startswith("Test it: "))
    page = (tmp_path / "a" / "report.html").read_text()
    assert "Scores by setting" in page

    # From the command and from the file the same run.
    chosen = yaml.safe_load((tmp_path / "a" / "best.yaml").read_text())
    assert chosen["outer_lr"] == best["outer_lr"]
    assert chosen["learner"] == [f"MAML(inner_lr={best['MAML.inner_lr']})"]
    assert chosen["hidden"] == yaml.safe_load(best["hidden"])
    by_file = metalens_here("run", "demo", "--config", "a/best.yaml", "--out", "by-file")
    assert by_file.returncode == 0, by_file.stderr
    metalens_here(*shlex.split(command.removeprefix("Test it: metalens ")), "--out", "by-command")
    assert "test" in drawn
    results = [(tmp_path / name / "results.csv").read_text() for name in ("by-file", "by-command")]
    assert results[0] == results[1]
    metrics = pd.read_csv(tmp_path / "by-file" / "metrics.csv")
    validated = metrics[(metrics["split"] == "val") & (metrics["metric"] == "mse")]["value"]
    assert validated.min() == pytest.approx(best["score"])


def test_a_sealed_recipe_refuses_its_test_tasks():
    recipe = sealed(RECIPE)
    assert asdict(recipe) == asdict(RECIPE)
    assert recipe.distribution("val", 0)[0].query.x.equal(RECIPE.distribution("val", 0)[0].query.x)
    for ask in (recipe, replace(recipe, steps=9)):
        with pytest.raises(RuntimeError, match="must not see test tasks"):
            ask.distribution("test", 0)
    with pytest.raises(RuntimeError, match="must not see test tasks"):
        recipe.curve_distribution(0)


@pytest.mark.parametrize("together", [True, False])
def test_the_score_is_the_mean_over_seeds_of_the_best_validation(together):
    machine = replace(RECIPE.machine, together=together)
    recipe = sealed(replace(RECIPE, seeds=[0, 1], outer_lr=0.05, steps=6, machine=machine))
    (arm,) = arms_of(recipe)
    curves = []
    for seed in recipe.seeds:
        objective = arm.build(recipe, seed)
        held_out = Validation(recipe.distribution("val", seed), n_tasks=5, every=2)
        tasks = recipe.distribution("train", seed)
        curve = fit(
            objective,
            tasks,
            steps=6,
            meta_batch_size=4,
            outer_lr=0.05,
            validation=held_out,
            seed=seed,
        )
        curves.append(curve[(curve["split"] == "val") & (curve["metric"] == "mse")]["value"].to_numpy())
    trial = optuna.create_study().ask()
    found = score(recipe, trial, lambda step, loss: None)
    assert found == pytest.approx(sum(curve.min() for curve in curves) / 2, rel=1e-5)
    told = trial.study.trials[0].intermediate_values
    if together:
        expected = {step: (curves[0][i] + curves[1][i]) / 2 for i, step in enumerate((2, 4, 6))}
    else:
        expected = {step: curves[0][i] for i, step in enumerate((2, 4, 6))}
        expected |= {6 + step: (curves[0].min() + curves[1][i]) / 2 for i, step in enumerate((2, 4, 6))}
    assert told == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_what_has_nothing_to_train_is_scored_once(sweep, tmp_path):
    search(sweep("KNN.n_neighbors: [1, 3]", 2, learner=["KNN"]), tmp_path / "s")
    trials = read_result(tmp_path / "s").trials
    assert trials["state"].tolist() == ["complete"] * 2
    assert trials["score"].notna().all()


# Trials that end early


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_trials_behind_others_end_early(pruner, sweep, tmp_path):
    search(sweep("MAML.inner_lr: {low: 0.01, high: 3.0}", 10, pruner=pruner), tmp_path / "s")
    result = read_result(tmp_path / "s")
    steps = result.trials.groupby("state")["steps"].unique()
    assert steps["pruned"].tolist() == [2]
    assert steps["complete"].tolist() == [4]
    rates = result.trials.groupby("state")["MAML.inner_lr"]
    assert rates.mean()["complete"] < rates.mean()["pruned"]
    n_pruned = rates.count()["pruned"]
    assert f"{n_pruned} ended early" in outcome_in_words(result)[1]
    assert result.best_trial["state"] == "complete"


@pytest.mark.slow
def test_divergence_is_a_result_and_not_the_end(sweep, tmp_path):
    space = "MAML.inner_lr: [1e30, 0.01]"
    search(sweep(space, 6, seeds=[0, 1]), tmp_path / "s")
    write_sweep_report(tmp_path / "s")
    result = read_result(tmp_path / "s")
    states = result.trials.groupby("MAML.inner_lr")["state"].unique()
    assert states[1e30].tolist() == ["diverged"]
    assert states[0.01].tolist() == ["complete"]
    assert result.best is not None
    assert result.best.learner == ["MAML(inner_lr=0.01)"]
    search(sweep("MAML.inner_lr: [1e30]", 1), tmp_path / "lost")
    write_sweep_report(tmp_path / "lost")
    assert outcome_in_words(read_result(tmp_path / "lost"))[0].startswith(
        "There is no best setting yet. Of 1 trial"
    )
    assert not (tmp_path / "lost" / "best.yaml").exists()


def test_settings_that_do_not_go_together_are_a_failed_trial(sweep, tmp_path):
    # Each of them fits the first value of the other.
    space = "{n_train_tasks: [100, 6], meta_batch_size: [4, 8]}"
    search(sweep(space, 8), tmp_path / "s")
    trials = read_result(tmp_path / "s").trials
    impossible = (trials["n_train_tasks"] == 6) & (trials["meta_batch_size"] == 8)
    assert impossible.any()
    assert trials.loc[impossible, "state"].eq("failed").all()
    assert trials.loc[impossible, "note"].str.contains("n_train_tasks must be at least meta_batch_size").all()
    assert trials.loc[~impossible, "state"].eq("complete").all()


# More trials, and reports


@pytest.mark.slow
def test_a_sweep_continues_to_more_trials_and_names_a_damaged_database(sweep, tmp_path):
    folder = tmp_path / "s {?#%}"  # no URL
    search(sweep(n_trials=2), folder)
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "sweep.json", DATABASE]
    before = read_result(folder).trials
    search(sweep(n_trials=4), folder)
    after = read_result(folder).trials
    pd.testing.assert_frame_equal(after.head(2), before)
    assert after["state"].tolist() == ["complete"] * 4
    search(sweep(n_trials=4), tmp_path / "at-once")
    at_once = read_result(tmp_path / "at-once").trials
    pd.testing.assert_frame_equal(at_once.drop(columns="seconds"), after.drop(columns="seconds"))
    database = folder / DATABASE
    database.write_bytes(b"garbage\n" + database.read_bytes())
    for use in (lambda: read_result(folder), lambda: search(sweep(n_trials=5), folder)):
        with pytest.raises(MetaLensError, match=f"{DATABASE} is damaged"):
            use()


@pytest.mark.slow
def test_the_report_can_be_written_at_any_time(sweep, tmp_path):
    folder, pages = tmp_path / "s", []

    class Reports(SweepWatcher):
        def step(self, step, loss):
            if step == 3 and len(pages) < 2:
                pages.append(write_sweep_report(folder).read_text())

    search(sweep("{meta_batch_size: [4, 8], schedule: [constant, linear]}", 10), folder, watcher=Reports())
    assert "There is no best setting yet. Of 1 trial: 1 not yet done." in pages[0]
    assert "Of 2 trials: 1 trained to the end, 1 not yet done." in pages[1]
    assert "Importance of the settings" not in pages[1]
    assert "Importance of the settings" in write_sweep_report(folder).read_text()


# Mistakes


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ("outer_lr: [", "space.yaml is not YAML"),
        ("", "space.yaml must hold settings with their values"),
        ("- outer_lr", "space.yaml must hold settings with their values"),
        ("outer_rate: [0.1]", "outer_rate: demo has no such setting to be swept; choose from steps, "),
        ("seeds: [[0], [1]]", "seeds: demo has no such setting to be swept"),
        ("n_val_tasks: [5, 6]", "n_val_tasks: demo has no such setting to be swept"),
        ("ANIL.inner_lr: [0.1]", "the sweep is of MAML and Uniform, and ANIL is not among them"),
        ("MAML.inner: [0.1]", "MAML has no setting 'inner'; it has adapting, "),
        ("outer_lr: 0.1", "outer_lr: write a range {low: ..., high: ..., log: true} or a list of choices"),
        ("outer_lr: {low: 0.1}", "outer_lr: write a range"),
        ("outer_lr: {low: 0.1, high: 1, step: 2}", "outer_lr: write a range"),
        ("outer_lr: {low: 1, high: 0.1}", "`low <= high`"),
        ("outer_lr: {low: 0, high: 0.1, log: true}", "`low > 0` must hold"),
        ("outer_lr: {low: 0.1, high: 1, log: ja}", "log must be true or false, got ja"),
        ("outer_lr: {low: 0.1, high: .inf}", "low and high must be finite"),
        ("outer_lr: {low: few, high: many}", "outer_lr"),
        ("outer_lr: []", "outer_lr"),
        ("meta_batch_size: [4, 4]", "each choice must be named once"),
        ("meta_batch_size: {low: 4.5, high: 8}", "meta_batch_size"),
        ("schedule: {low: constant, high: linear}", "a range needs numbers; list the choices"),
        ("schedule: [constant, square]", "schedule"),
        ("outer_lr: {low: -1.0, high: 1.0}", "with the first values: outer_lr must be above 0"),
        (
            "meta_batch_size: [4, 200]",
            "with meta_batch_size=200: n_train_tasks must be at least meta_batch_size",
        ),
        ("outer_lr: [null, 0.1]", "outer_lr must have a value, got null"),
        ("k_shot: [5, 7]", "k_shot changes the validation tasks"),
    ],
)
def test_a_wrong_space_is_one_sentence(space, sentence, sweep):
    with pytest.raises(MetaLensError, match=re.escape(sentence)) as raised:
        sweep(space).check()
    assert "space.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"regularizers": ["none", "TRLearner"]},
            "A sweep is of one arm, got 2 (MAML; MAML + TRLearner); name",
        ),
        ({"learner": ["MAML", "ANIL"]}, "--learner MAML --regularizers TRLearner."),
        ({"n_val_tasks": 0}, "A sweep needs validation tasks"),
        ({"machine.devices": 2}, "A trial is trained by one process"),
        ({"machine.workers": "ray"}, "A sweep runs on one machine"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"lost_after": 2.5}, "lost_after must be at least 3 seconds"),
        ({"pruner": "gardener"}, "pruner"),
        ({"space": "absent.yaml"}, "absent.yaml"),
        (
            {"regularizers": ["TRLearner"], "space": "low.yaml"},
            "low.yaml: with meta_batch_size=2: TRLearner needs",
        ),
        ({"out": "full"}, "full is no folder of a sweep and not empty"),
    ],
)
def test_what_cannot_be_swept_is_one_sentence(settings, sentence, metalens_here, tmp_path):
    (tmp_path / "space.yaml").write_text("outer_lr: [0.1, 0.01]")
    (tmp_path / "low.yaml").write_text("meta_batch_size: [4, 2]")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    done = metalens_here("sweep", "demo", *options(**{"space": "space.yaml", "out": "s", **settings}))
    assert done.returncode == 2
    assert sentence in done.stderr
    assert not (tmp_path / "s").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["precious"]


@pytest.mark.slow
def test_another_sweep_does_not_join(sweep, tmp_path):
    folder = tmp_path / "s"
    search(sweep(n_trials=1), folder)
    search(sweep(n_trials=1, machine=replace(RECIPE.machine, threads=2)), folder)
    with pytest.raises(MetaLensError, match="s is of another sweep: steps was 4 and is 6"):
        search(sweep(n_trials=2, steps=6), folder)
    with pytest.raises(MetaLensError, match="s is of another sweep: space was"):
        search(sweep("outer_lr: [0.1]", n_trials=2), folder)
    (folder / "sweep.json").write_text("{}")
    with pytest.raises(MetaLensError, match=r"sweep\.json is damaged: metalens"):
        read_result(folder)


def test_a_missing_extra_is_one_sentence(metalens_here, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in [
        name for name in sys.modules if name.startswith(("metalens.experiments.sweeps", "metalens.cli.sweep"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "sweep.json").write_text("{}")
    for words in (["sweep", "demo", "--space", "space.yaml"], ["report", str(tmp_path)]):
        done = metalens_here(*words)
        assert done.returncode == 2
        assert done.stderr == "metalens: optuna is not installed; run pip install 'metalens[sweep]'.\n"


@pytest.mark.slow
def test_a_table_of_a_sweep_is_trials_csv(metalens_here, sweep, tmp_path):
    search(sweep(n_trials=1), tmp_path / "s")
    done = metalens_here("report", "s", "--format", "latex")
    assert "s is a sweep, whose table is trials.csv" in done.stderr
    done = metalens_here("report", "s")
    assert "Best is trial 0" in done.stdout, done.stderr
    assert (tmp_path / "s" / "trials.csv").is_file()
