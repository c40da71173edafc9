"""Trackers and loggers are told the learning curve, each value once, whatever interrupts the training."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from lightning_fabric.loggers import Logger

import metalens as ml
from metalens.cli import main
from metalens.execution.machine import Machine
from metalens.experiments import RECIPES, trackers
from metalens.experiments.experiment import Watcher, run
from metalens.io.files import new_folder
from metalens.specs.settings import changed
from metalens.statistics.arms import ARM, arm_label

TINY = replace(
    RECIPES["demo"], regularizers=["none", "TRLearner"], seeds=[0, 1], steps=4, meta_batch_size=3, hidden=[4],
    n_val_tasks=2, validate_every=2, n_test_tasks=3,
    machine=Machine(accelerator="cpu", threads=1, compile=False),
)  # fmt: skip


class Recorder(Logger):
    """Keeps what it is told in a file, to which a process that goes on appends."""

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.version = path, path.stem, "0"
        path.parent.mkdir(parents=True, exist_ok=True)

    name = version = None

    def log_metrics(self, metrics, step=None):
        with self.path.open("a") as file:
            file.writelines(json.dumps([step, *pair]) + "\n" for pair in metrics.items())

    def log_hyperparams(self, params, metrics=None, step=None):
        self.log_metrics({"settings": params["learner"], **metrics}, step)

    def told(self):
        return [tuple(json.loads(line)) for line in self.path.read_text().splitlines()]


def rows_of(curve):
    rows = curve[["step", "split", "metric", "value"]].itertuples(index=False)
    return [(step, f"{split}/{metric}", value) for step, split, metric, value in rows]


def fit(logger, **settings):
    objective = ml.Objective(ml.MAML(ml.mlp(hidden=[4])))
    validation = ml.Validation(ml.Sinusoid("val"), n_tasks=2, every=3)
    return ml.fit(objective, ml.Sinusoid(), steps=7, meta_batch_size=2, validation=validation,
                  loggers=[logger], **settings)  # fmt: skip


def test_loggers_get_the_learning_curve(tmp_path):
    recorder = Recorder(tmp_path / "told.jsonl")
    assert rows_of(fit(recorder)) == recorder.told()


@pytest.mark.parametrize("every", [0.0, math.inf])
def test_a_training_that_goes_on_tells_every_value_once(every, tmp_path):
    recorder = Recorder(tmp_path / "told.jsonl")

    def interrupt(step, loss):
        if step == 5:
            raise KeyboardInterrupt

    settings = {"out": tmp_path / "fit", "checkpoint_every": every}
    with pytest.raises(KeyboardInterrupt):
        fit(recorder, on_step=interrupt, **settings)
    assert recorder.path.exists() == (every == 0)  # nothing is told before it is kept
    curve = fit(recorder, resume=True, **settings)
    assert rows_of(curve) == recorder.told()


def test_a_training_that_diverges_tells_where(tmp_path):
    recorder = Recorder(tmp_path / "told.jsonl")
    objective = ml.Objective(ml.MAML(ml.mlp(hidden=[4]), inner_lr=1e30))
    with pytest.raises(ml.DivergenceError):
        ml.fit(
            objective,
            ml.Sinusoid(),
            steps=3,
            meta_batch_size=2,
            loggers=[recorder],
        )
    assert (1, "train/diverged", 1.0) in recorder.told()


@pytest.mark.parametrize("together", [True, False])
def test_each_cell_has_a_run_of_its_own_that_survives_an_interruption(together, tmp_path, monkeypatch):
    keys = {}

    def recorder(folder, experiment, title, key, settings):
        assert keys.setdefault(title, key) == key  # the same run of the tracker
        return Recorder(tmp_path / "told" / f"{title}.jsonl")

    monkeypatch.setitem(trackers.LOGGERS, "recorder", recorder)
    monkeypatch.setattr(trackers, "check_trackers", lambda names: None)
    monkeypatch.setattr("metalens.experiments.experiment.check_trackers", lambda names: None)

    class Interrupt(Watcher):
        left = 3  # steps

        def step(self, step, loss):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    recipe = changed(TINY, {"machine": {"together": together}})
    settings = {"checkpoint_every": 0.0, "trackers": ["recorder"]}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "run", resume=True) as folder:
            run(recipe, folder, watcher=Interrupt(), **settings)
    with new_folder(tmp_path / "run", resume=True) as folder:
        run(recipe, folder, **settings)
    curves, results = (pd.read_csv(tmp_path / "run" / f"{name}.csv") for name in ("metrics", "results"))
    arms = [*ARM, "seed"]
    assert curves.groupby(arms).ngroups == 4 == len(list((tmp_path / "told").iterdir()))
    for (*arm, seed), curve in curves.groupby(arms):
        told = Recorder(tmp_path / "told" / f"{arm_label(*arm)}, seed {seed}.jsonl").told()
        scores = results[(results[arms] == [*arm, seed]).all(axis=1)]
        test = [
            (4, f"test/{metric}", pytest.approx(mean))
            for metric, mean in scores.groupby("metric").value.mean().items()
        ]
        assert told == [*rows_of(curve), (4, "settings", arm[0]), *test]


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["run", "demo", "--tracker", "wandb", "--out", str(tmp_path / "run")])
    assert "pip install 'metalens[wandb]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_tensorboard_gets_curves_scores_and_settings(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(TINY, tmp_path, trackers=["tensorboard"])
    assert len(list((tmp_path / "tensorboard").iterdir())) == 4
    events = EventAccumulator(str(tmp_path / "tensorboard" / "MAML + TRLearner, seed 1")).Reload()
    curves = pd.read_csv(tmp_path / "metrics.csv")
    own = curves[(curves.regularizers == "TRLearner") & (curves.seed == 1)]
    for split, metric in (("train", "query"), ("train", "trlearner"), ("val", "mse")):
        rows = own[(own.split == split) & (own.metric == metric)]
        found = events.Scalars(f"{split}/{metric}")
        assert [event.step for event in found] == rows.step.tolist()
        assert [event.value for event in found] == pytest.approx(rows.value.tolist(), rel=1e-6)
    assert [event.step for event in events.Scalars("test/mse")] == [4]
    assert b"TRLearner" in events.PluginTagToContent("hparams")["_hparams_/session_start_info"]


def test_wandb_stays_offline_without_a_login(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run(replace(TINY, regularizers=["none"]), tmp_path, trackers=["wandb"])
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert all(list(folder.glob("run-*.wandb")) for folder in folders)


def test_mlflow_keeps_curves_scores_and_settings_in_the_folder(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run(replace(TINY, regularizers=["none"]), tmp_path, trackers=["mlflow"])
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "demo"]
    runs = {found.info.run_name: found for found in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"MAML, seed 0", "MAML, seed 1"}
    first = runs["MAML, seed 0"]
    assert first.data.params["learner"] == "MAML"
    assert first.info.status == "FINISHED"
    curves = pd.read_csv(tmp_path / "metrics.csv")
    rows = curves[(curves.seed == 0) & (curves.metric == "query")]
    history = client.get_metric_history(first.info.run_id, "train/query")
    assert [(point.step, point.value) for point in history] == list(zip(rows.step, rows.value, strict=True))
    assert "test/mse" in first.data.metrics
