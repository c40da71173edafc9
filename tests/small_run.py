"""The results of a run and the files that it leaves, made up."""

import json
import math
from itertools import product

import numpy as np
import pandas as pd

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
