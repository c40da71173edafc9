"""Every reader of files that may be damaged, with small intact files."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import warnings
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
from jsonargparse import ArgumentParser
from PIL import Image

import metalens as ml
from metalens.cli import predict, report
from metalens.cli import run as run_command
from metalens.estimators import MetaRegressor, load_model
from metalens.estimators import report as model_report
from metalens.execution.machine import Machine
from metalens.experiments import RECIPES, Recipe
from metalens.experiments.arms import arms_of
from metalens.experiments.experiment import describe, run
from metalens.experiments.loading import arm_of, check_same_tasks, load_objective, recipe_of
from metalens.experiments.store import Store
from metalens.reports import run_report
from metalens.reports.reading import read_manifest, read_together
from metalens.specs.calls import build_learner, build_regularizers, build_sampler


class Reader(NamedTuple):
    """What is read, and how.

    Attributes:
        write: writes sound files into a folder.
        read: reads the files of a folder as a command does, given the name of the changed one.
        writes: whether it writes into the folder too.
        may_be_large: whether what is read may ask for any amount of memory.
    """

    write: Callable[[Path], object]
    read: Callable[[Path, str], object]
    writes: bool = False
    may_be_large: bool = False


@cache
def _demo() -> Recipe:
    return replace(
        RECIPES["demo"], regularizers=["TRLearner"], seeds=[0, 1], steps=2, meta_batch_size=3, hidden=[4],
        n_val_tasks=2, validate_every=1, n_test_tasks=3,
        machine=Machine(accelerator="cpu", threads=1, compile=False),
    )  # fmt: skip


def _write_configuration(folder: Path) -> None:
    (folder / "demo.yaml").write_text(
        "learner: [MAML, 'ANIL(inner_lr=0.1)']\nregularizers: [none, TRLearner]\nseeds: [0]\nsteps: 5\n"
        "hidden: [8]\n"
        "outer_lr: 0.01\nschedule: cosine\nmachine: {compile: auto}\nout: runs/x\noverwrite: false\n"
        "clip_norm: null\n"
    )


@cache
def _parser() -> ArgumentParser:
    return run_command._parser(RECIPES["demo"])


def _read_configuration(folder: Path, changed: str) -> None:
    path = str(folder / changed)
    run_command.check_config(["run", "demo", "--config", path], RECIPES["demo"], run_command.OWN)
    recipe = run_command.with_settings(RECIPES["demo"], _parser().parse_args(["--config", path]))
    recipe.training(seed=0)
    for arm in arms_of(recipe):
        describe(arm, recipe, arm.build(recipe, recipe.seeds[0]))


def _write_calls(folder: Path) -> None:
    for kind, text in CALLS.items():
        (folder / f"{kind}.txt").write_text(text)


CALLS = {
    "learner": "MAML(inner_lr=0.1, inner_steps=3)",
    "regularizers": "TRLearner(weight=0.3) + MetaMix",
    "sampler": "HardMining",
}


def _read_call(folder: Path, changed: str) -> None:
    text = (folder / changed).read_bytes().decode("utf-8", "replace")
    match changed:
        case "learner.txt":
            build_learner(text, ml.mlp(hidden=[4]), lambda name: {})
        case "regularizers.txt":
            build_regularizers(text)
        case _:
            build_sampler(text)


def _table(n_tasks: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"sensor": np.repeat(np.arange(n_tasks), 8), "volt": rng.random(8 * n_tasks).round(3)}
    )
    frame["color"] = np.where(frame.volt > 0.5, "red", "blue")
    return frame.assign(bar=(frame.volt * (1 + frame.sensor % 3)).round(3))


def _write_tables(folder: Path) -> None:
    text = _table().to_csv(index=False)
    (folder / "table.csv").write_text(text)
    (folder / "table.csv.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    with zipfile.ZipFile(folder / "table.zip", "w") as archive:
        archive.writestr("table.csv", text)
    try:
        _table().to_parquet(folder / "table.parquet")
    except ImportError:
        warnings.warn("Without pyarrow no Parquet file is read.", stacklevel=2)


def _read_table(folder: Path, changed: str) -> None:
    tasks = ml.TableTasks(
        folder / changed, "train", task="sensor", target="bar", k_shot=2, n_query=2, missing="mean"
    )
    tasks.batch(range(2))


@cache
def _model() -> MetaRegressor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MetaRegressor(steps=2, hidden=[4], patience=1, baselines=["ProfileRidge", "MeanPredictor"])
        return model.fit(_table(), task="sensor", target="bar")


def _write_new_task(folder: Path) -> None:
    _table(2).to_csv(folder / "support.csv", index=False)
    _table(2).drop(columns="bar").to_csv(folder / "query.csv", index=False)


def _read_new_task(folder: Path, changed: str) -> None:
    files = str(folder / "support.csv"), str(folder / "query.csv")
    predict._predict_table(_model(), *files, 0.5)[0].to_csv(io.StringIO())


FORMATS = ("PNG", "GIF", "BMP", "TIFF", "JPEG", "WEBP")


def _image(number: int) -> bytes:
    file, pixels = io.BytesIO(), np.random.default_rng(number).integers(0, 255, (6, 6, 3), np.uint8)
    Image.fromarray(pixels).save(file, FORMATS[number % len(FORMATS)])
    return file.getvalue()


def _write_images(folder: Path) -> None:
    names = [f"{kind}/{number}.{FORMATS[number].lower()}" for kind in "abc" for number in range(6)]
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(name, _image(number))
            path = folder / "folder" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_image(number))


def _read_images(folder: Path, changed: str) -> None:
    source = folder / ("images.zip" if changed == "images.zip" else "folder")
    ml.ImageFolders(source, "train", n_way=2, k_shot=1, n_query=1, image_size=8, splits="train").batch(
        range(2)
    )


def _write_arrays(folder: Path) -> None:
    rng = np.random.default_rng(0)
    data = {"x": rng.random((40, 2)), "y": rng.random(40), "task": np.arange(40) // 5}
    np.savez(folder / "data.npz", **data)
    np.savez_compressed(folder / "packed.npz", **data)
    frame = pd.DataFrame(
        {"series": np.repeat(np.arange(6), 20), "time": np.tile(np.arange(20), 6), "value": rng.random(120)}
    )
    frame.to_csv(folder / "series.csv", index=False)


def _read_arrays(folder: Path, changed: str) -> None:
    if changed == "series.csv":
        ml.SeriesTasks(folder / changed, "train", length=3, k_shot=2, n_query=2).batch(range(2))
    else:
        ml.ArrayTasks(folder / changed, "train", k_shot=2, n_query=2).batch(range(2))


def _fit(folder: Path, steps: int) -> None:
    objective = ml.Objective(ml.MAML(ml.mlp(hidden=[4])), [ml.MRMAML(beta=0.1)])
    ml.fit(
        objective, ml.Sinusoid(), steps=steps, meta_batch_size=2, sampler=ml.HardMining(),
        validation=ml.Validation(ml.Sinusoid("val"), n_tasks=2, every=1),
        machine=ml.Machine(accelerator="cpu"), out=folder, checkpoint_every=0.0, resume=True,
    )  # fmt: skip


def _write_checkpoint(folder: Path) -> None:
    _fit(folder / "fit", 2)
    checkpoint = max((folder / "fit" / "checkpoints").iterdir())
    checkpoint.rename(folder / "state.safetensors")
    shutil.rmtree(folder / "fit")


def _read_checkpoint(folder: Path, changed: str) -> None:
    """Resume from a checkpoint whose digest is right, whatever its content."""
    content = (folder / changed).read_bytes()
    checkpoints = folder / "fit" / "checkpoints"
    checkpoints.mkdir(parents=True)
    name = f"step-1-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    (checkpoints / name).write_bytes(content)
    _fit(folder / "fit", 2)


def _write_run(folder: Path) -> None:
    run(_demo(), folder)


def _read_run(folder: Path, changed: str) -> None:
    with patch.object(run_report, "save_figure", lambda figure, path: "data:,"):  # slow, and knows no files
        run_report.write_report(folder)
    run_report.write_table(folder, "latex")
    report.show(folder)
    manifest = read_manifest(folder)
    recipe = recipe_of(manifest)
    check_same_tasks([(folder, manifest), (folder, manifest)])
    read_together([folder, folder])
    load_objective(folder, recipe, arm_of(recipe, None), recipe.seeds[0])


def _write_unfinished(folder: Path) -> None:
    """Keep what a run has before its last step, when it forgets its parts."""
    with patch.object(Store, "forget"):
        run(_demo(), folder)
    for name in ("manifest.json", "results.csv", "metrics.csv", "curves.csv", "relations.csv"):
        (folder / name).unlink()


def _read_unfinished(folder: Path, changed: str) -> None:
    with patch("metalens.experiments.experiment.commit", lambda: None):  # asks git
        run(_demo(), folder)


def _write_model(folder: Path) -> None:
    _model().save(folder, overwrite=True)
    facts = {
        "metalens": "1", "title": "bar by sensor", "command": "metalens train", "commands": ["a", "b", "c"],
        "chosen": _model().chosen_, "k_shot": 2, "no_relations": "None.", "configuration": {"seeds": 1},
        "versions": {"a": "1"},
        "started": "2026-01-02T03:04:05+00:00", "seconds": 1.0,
    }  # fmt: skip
    (folder / model_report.TRAINING).write_text(json.dumps(facts))


def _read_model(folder: Path, changed: str) -> None:
    model = load_model(folder)
    model.adapt(_table(1)).predict(_table(1))
    with patch.object(model_report, "save_figure", lambda figure, path: "data:,"):  # slow, and knows no files
        model_report.write_model_report(folder)
    with redirect_stdout(io.StringIO()):
        report.show_model(folder)


READERS = {
    "configuration": Reader(_write_configuration, _read_configuration, may_be_large=True),
    "calls": Reader(_write_calls, _read_call, may_be_large=True),
    "tables": Reader(_write_tables, _read_table),
    "new tasks": Reader(_write_new_task, _read_new_task),
    "images": Reader(_write_images, _read_images),
    "arrays": Reader(_write_arrays, _read_arrays),
    "checkpoints": Reader(_write_checkpoint, _read_checkpoint, writes=True),
    "runs": Reader(_write_run, _read_run, writes=True),
    "unfinished runs": Reader(_write_unfinished, _read_unfinished, writes=True),
    "models": Reader(_write_model, _read_model, writes=True),
}
