"""Sensors with a slope and an offset each, and quick estimators of them."""

import warnings

import numpy as np
import pandas as pd

from metalens import MetaRegressor

FEW = ("ProfileRidge", "JointModel", "MeanPredictor", "Ridge")
TINY = {"learner": "ANIL", "hidden": (8,), "steps": 2, "k_shot": 4, "n_query": 4, "baselines": FEW}
ROLES = {"task": "sensor", "target": "pressure"}
MODELS = ["ANIL", "ProfileRidge", "JointModel", "MeanPredictor", "Ridge"]


def sensors(n=20, rows=8, seed=0, start=0):
    """Lines with a slope and an offset of their own, in large units, and words that add to them."""
    rng = np.random.default_rng(seed)
    sensor = np.repeat(np.arange(n), rows)
    frame = pd.DataFrame({"sensor": [f"s{start + i}" for i in sensor], "voltage": rng.normal(size=n * rows)})
    frame["kind"] = rng.choice(["round", "flat"], n * rows)
    slope, offset = rng.normal(size=(2, n))
    frame["pressure"] = 1000 + 50 * (slope[sensor] * frame.voltage + offset[sensor])
    frame["pressure"] += 20 * (frame.kind == "flat") + rng.normal(size=n * rows)
    return frame


def fitted(frame=None, roles=ROLES, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the fall-back, which has its own test
        return MetaRegressor(**{**TINY, **settings}).fit(sensors() if frame is None else frame, **roles)
