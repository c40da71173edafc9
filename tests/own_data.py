"""The command line on people's own data, within this process, and a table for it."""

import io
import os
import signal
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout

import numpy as np
import pandas as pd
from PIL import Image

from metalens.cli import main

QUICK = ["--steps", "2", "--meta_batch_size", "2", "--baselines", "MeanPredictor", "KNN"]
FEW = ["--baselines", "ProfileRidge", "JointModel", "MeanPredictor", "Ridge"]
TABLE = ["--data", "assays.csv", "--task", "assay", "--target", "y", "--k_shot", "4", *QUICK, *FEW]
FILES = [
    "README.md", "comparison.csv", "curve.csv", "figures", "importance.csv", "model.json", "predictions.csv",
    "relations.csv", "report.html", "training.json", "weights.safetensors",
]  # fmt: skip


def call(folder, *words):
    """Run the command line in a folder, and return its status, its output and its errors."""
    before, on_term = warnings.showwarning, signal.getsignal(signal.SIGTERM)
    said, errors = io.StringIO(), io.StringIO()
    with chdir(folder), redirect_stdout(said), redirect_stderr(errors), warnings.catch_warnings():
        os.environ["METALENS_CACHE"] = str(folder / ".cache")
        warnings.simplefilter("default")  # they are notes for the user, as in a process of its own
        try:
            main(words)
            status = 0
        except SystemExit as ended:
            status = ended.code
        finally:
            warnings.showwarning = before
            signal.signal(signal.SIGTERM, on_term)
    return status, said.getvalue(), errors.getvalue()


def done(folder, *words):
    status, said, errors = call(folder, *words)
    assert status == 0, errors
    return said, errors


def files(folder):
    return sorted(path for path in folder.rglob("*") if ".cache" not in path.parts)


def refused(folder, *words):
    """Return the one sentence by which a mistake is told, and assert that no file has come or gone."""
    before = files(folder)
    status, _, errors = call(folder, *words)
    assert status == 2, errors
    assert "Traceback" not in errors
    *notes, sentence = errors.strip().splitlines()
    assert all(note.startswith("metalens: note: ") for note in notes)
    assert files(folder) == before
    return sentence


def assays(n_tasks=30, rows=16):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (n_tasks * rows, 2)).round(3)
    slope = np.repeat(rng.normal(size=n_tasks), rows)
    frame = pd.DataFrame({"assay": np.repeat([f"00{number}" for number in range(n_tasks)], rows)})
    frame = frame.assign(dose=x[:, 0], heat=x[:, 1], y=(slope * x[:, 0] + x[:, 1]).round(3))
    return frame.assign(kind=np.where(frame.y > 0, "high", "low"))


def train_assays(folder):
    """Write a table into a folder, train a model on it, and return what was said."""
    assays().drop(columns="kind").to_csv(folder / "assays.csv", index=False)
    said, notes = done(folder, "train", *TABLE, "--splits", "0.4", "0.2", "0.4")
    assert "does not beat" not in notes  # what is printed says so
    return said


def image(path, color):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(abs(hash(path.name)) % 100).integers(0, 60, (8, 8, 3))
    Image.fromarray((noise + color).astype(np.uint8)).save(path)
