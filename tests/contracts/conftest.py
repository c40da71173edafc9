"""One parametrization of the whole catalogue, with the combinations that are meaningless left out."""

from __future__ import annotations

import warnings

import pytest
import torch
from catalogue import (
    LEARNERS,
    LOOPED_NETWORKS,
    NETWORKS,
    REGULARIZERS,
    build_network,
    classification_tasks,
    regression_tasks,
)

from metalens import Objective, Task


class Case:
    """A learner, a regularizer, a network and a kind of task."""

    def __init__(self, learner: str, regularizer: str, network: str, kind: str) -> None:
        self.learner, self.regularizer, self.network, self.kind = learner, regularizer, network, kind

    @property
    def meaningful(self) -> bool:
        learner, regularizer = LEARNERS[self.learner], REGULARIZERS[self.regularizer]
        if self.kind == "regression" and (not learner.regression or regularizer.classification_only):
            return False
        return learner.adapts_parameters or not regularizer.adapted_parameters_needed

    @property
    def exact_gradient(self) -> bool:
        return LEARNERS[self.learner].exact_gradient

    @property
    def random(self) -> bool:
        return REGULARIZERS[self.regularizer].random

    def objective(self, batching: str | int = "auto") -> Objective:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # wrapping a recurrent network warns, as it should
            network = build_network(self.network)
        learner = LEARNERS[self.learner].build(network)
        torch.manual_seed(2)
        regularizers = REGULARIZERS[self.regularizer].build(learner)
        return Objective(learner, regularizers, batching=batching).double()

    def tasks(self) -> Task:
        return (classification_tasks if self.kind == "classification" else regression_tasks)(self.network)

    def loss(self, objective: Objective, tasks: Task) -> torch.Tensor:
        torch.manual_seed(3)  # shuffled relations and subsampled queries
        return torch.stack(list(objective(tasks).values())).sum()

    def __str__(self) -> str:
        return f"{self.learner}-{self.regularizer}-{self.network}-{self.kind}"


CASES = [
    case
    for learner in LEARNERS
    for regularizer in REGULARIZERS
    for network in NETWORKS
    for kind in ("classification", "regression")
    if (case := Case(learner, regularizer, network, kind)).meaningful
]
LOOPED_CASES = [
    case
    for learner in LEARNERS
    for regularizer in ("none", "TRLearner")
    for network in LOOPED_NETWORKS
    for kind in ("classification", "regression")
    if (case := Case(learner, regularizer, network, kind)).meaningful
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        looped = metafunc.definition.get_closest_marker("also_looped") is not None
        cases = CASES + (LOOPED_CASES if looped else [])
        metafunc.parametrize("case", cases, ids=map(str, cases))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "also_looped: also for networks without a vectorized form")
