"""Strands of a stream of tasks: every model of an ensemble has tasks of its own."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from metalens import ANIL, MetaRegressor, Sinusoid
from metalens.data.interleaved import Interleaved
from metalens.estimators import training


def test_strands_divide_the_stream():
    tasks = Sinusoid(seed=3)
    strands = [Interleaved(tasks, number, 3) for number in range(3)]
    numbers = [0, 1, 5]
    for number, strand in enumerate(strands):
        batch = strand.batch(numbers)
        for row, index in enumerate(numbers):
            expected = tasks[3 * index + number].support.y
            assert torch.equal(strand[index].support.y, expected)
            assert torch.equal(batch.support.y[row], expected)
    alone = Interleaved(tasks, 0, 1)
    assert torch.equal(alone.batch([4, 2]).query.x, tasks.batch([4, 2]).query.x)


def test_strands_are_of_the_same_kind():
    class Pool(Sinusoid):
        n_classes = 7
        equal_sizes = False

        def with_global_labels(self):
            return Sinusoid(seed=9)

    strand = Interleaved(Pool(n_train_tasks=5), 1, 2)
    assert (strand.n_classes, strand.equal_sizes, strand.pool_size, strand.split) == (7, False, 5, "train")
    assert torch.equal(strand.with_global_labels()[1].support.y, Sinusoid(seed=9)[3].support.y)


@pytest.mark.slow
def test_models_of_an_estimator_train_on_different_tasks(monkeypatch):
    met = []

    def see(objectives, tasks, **settings):
        if isinstance(objectives[0].learner, ANIL):
            met.extend(tasks)
        return fit_together(objectives, tasks, **settings)

    fit_together = training.fit_together
    monkeypatch.setattr(training, "fit_together", see)
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"sensor": np.repeat(np.arange(20), 8), "voltage": rng.normal(size=160)})
    table["pressure"] = table.voltage * (1 + table.sensor) + rng.normal(size=160)
    model = MetaRegressor("ANIL", hidden=[4], steps=2, k_shot=4, n_query=4, seeds=3, fallback=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(table, task="sensor", target="pressure")
    first = [strand[0].support.x for strand in met]
    assert len(first) == 3
    assert not any(torch.equal(first[i], first[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
