"""Every combination of the catalogue: what is tested, and what must be refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from catalogue import (
    FURTHER_NETWORKS,
    LEARNER_VARIANTS,
    LEARNERS,
    LOOPED_NETWORKS,
    N_TASKS,
    NETWORKS,
    REFUSALS,
    REGULARIZERS,
    VARIANT_LEARNERS,
    VARIANTS,
    build_network,
    classification_tasks,
    regression_tasks,
)
from mapping import mapped

from metalens import MetaLensError, Objective, Task

KINDS = ("classification", "regression")


class Case:
    """A learner, a regularizer, a network and a kind of task."""

    def __init__(self, learner: str, regularizer: str, network: str, kind: str) -> None:
        self.learner, self.regularizer, self.network, self.kind = learner, regularizer, network, kind
        self.entry = (LEARNERS | LEARNER_VARIANTS)[learner]
        self.regularizer_entry = (REGULARIZERS | VARIANTS)[regularizer]
        covering = (r.words for r in REFUSALS if r.covers(learner, regularizer, network, kind))
        self.refusal: str | None = next(covering, None)

    def objective(self, batching: str = "auto", chunk: int | None = None) -> Objective:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # wrapping a recurrent network warns, as it should
            network = build_network(self.network)
        torch.manual_seed(2)
        with self._advice():
            learner = self.entry.build(network)
            regularizers = self.regularizer_entry.build(learner)
            return mapped(Objective(learner, regularizers), batching, chunk).double()

    def tasks(self) -> Task:
        tasks = (classification_tasks if self.kind == "classification" else regression_tasks)(self.network)
        descriptors = torch.randn(N_TASKS, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        return Task(tasks.support, tasks.query, descriptors)

    def loss(self, objective: Objective, tasks: Task) -> torch.Tensor:
        torch.manual_seed(3)  # what a regularizer draws at every step
        with self._advice():
            return torch.stack(list(objective(tasks).values())).sum()

    @contextmanager
    def _advice(self) -> Iterator[None]:
        """Say what to do about an error in a combination that is thought to have a meaning."""
        try:
            yield
        except MetaLensError as error:
            if self.refusal is None:
                error.add_note(f"If {self} has no meaning, let REFUSALS in catalogue.py cover it.")
            raise

    def __str__(self) -> str:
        return f"{self.learner}-{self.regularizer}-{self.network}-{self.kind}"


def draws_by_shape(tensor: torch.Tensor) -> torch.Tensor:
    """Stand in for `torch.rand_like`, with numbers that depend on the shape alone.

    Draws inside the map over tasks come in another order for every plan, so no two plans could agree.
    """
    numbers = 0.1 + 0.618034 * torch.arange(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    return numbers.frac().view(tensor.shape)


def _cases(learners: Iterable[str], regularizers: Iterable[str], networks: Iterable[str]) -> list[Case]:
    names = [(a, r, n) for a in learners for r in regularizers for n in networks]
    return [Case(*name, kind) for name in names for kind in KINDS]


ALL = [
    *_cases(LEARNERS, REGULARIZERS, NETWORKS),
    *_cases(VARIANT_LEARNERS, VARIANTS, NETWORKS),
    *_cases(LEARNER_VARIANTS, ["none", "TRLearner"], NETWORKS),
    *_cases(LEARNERS, ["none"], FURTHER_NETWORKS),
    *_cases(LEARNERS, ["none", "TRLearner"], LOOPED_NETWORKS),
]
MEANINGFUL = [case for case in ALL if case.refusal is None]

_TRAINABLE = [case for case in MEANINGFUL if case.entry.trains]

# What a test of each kind goes through, by the name of its argument.
CASES = {
    "trainable_case": _TRAINABLE,
    "exact_case": [case for case in _TRAINABLE if case.entry.exact_gradient],
    "repeatable_case": [case for case in _TRAINABLE if not case.regularizer_entry.random],
    "compiled_case": [
        case
        for case in _TRAINABLE
        if (case.network, case.kind) == ("mlp", "classification")
        and case.regularizer_entry.compiles
        and (case.regularizer == "none" or case.learner == "MAML")
    ],
    "replicated_case": [
        case
        for case in _TRAINABLE
        if (case.network, case.kind) == ("mlp", "classification")
        and (case.regularizer == "none" or case.learner == "MAML")
    ],
    "weighted_case": [case for case in _TRAINABLE if case.regularizer_entry.weighted],
    "vectorized_case": [
        case for case in MEANINGFUL if case.network not in LOOPED_NETWORKS and case.entry.vectorizes
    ],
    "learner_case": [case for case in MEANINGFUL if case.regularizer == "none"],
    "refused_case": [case for case in ALL if case.refusal is not None],
}
