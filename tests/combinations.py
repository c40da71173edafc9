"""Every combination of the catalogue: what is tested, what must be refused, and what the fast run keeps."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from catalogue import LEARNER_VARIANTS, LEARNERS, REFUSALS, REGULARIZERS, VARIANT_LEARNERS, VARIANTS
from mapping import mapped
from small_networks import (
    FURTHER_NETWORKS,
    LOOPED_NETWORKS,
    N_TASKS,
    NETWORKS,
    Stream,
    build_network,
    classification_tasks,
    regression_tasks,
)

from metalens import Learner, MetaLensError, Objective, Regularizer, Task
from metalens.testing import Check, learner_checks, regularizer_checks

KINDS = ("classification", "regression")


class Case:
    """A learner, a regularizer, a network and a kind of task."""

    def __init__(self, learner: str, regularizer: str, network: str, kind: str) -> None:
        self.learner, self.regularizer, self.network, self.kind = learner, regularizer, network, kind
        self.entry = (LEARNERS | LEARNER_VARIANTS)[learner]
        self.regularizer_entry = (REGULARIZERS | VARIANTS)[regularizer]
        covering = (r.words for r in REFUSALS if r.covers(learner, regularizer, network, kind))
        self.refusal: str | None = next(covering, None)

    def build(self) -> Learner:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # wrapping a recurrent network warns, as it should
            network = build_network(self.network)
        torch.manual_seed(2)
        with self.advice():
            learner = self.entry.build(network)
            if self.entry.prepares:
                learner.prepare(Stream(self.network, self.kind))
            return learner

    def regularize(self, learner: Learner) -> list[Regularizer]:
        with self.advice():
            return self.regularizer_entry.build(learner)

    def objective(self, batching: str = "auto") -> Objective:
        learner = self.build()
        with self.advice():
            return mapped(Objective(learner, self.regularize(learner)), batching).double()

    @property
    def tasks(self) -> Task:
        return tasks_for(self.network, self.kind)

    def loss(self, objective: Objective) -> torch.Tensor:
        torch.manual_seed(3)  # what a regularizer draws at every step
        with self.advice():
            return torch.stack(list(objective(self.tasks).values())).sum()

    def checks(self) -> Iterator[Check]:
        """Yield the checks of `metalens.testing`, by what the catalogue claims of its entries."""
        claims = {
            "tasks": self.tasks,
            "vectorizes": self.entry.vectorizes and self.network not in LOOPED_NETWORKS,
            "exact_gradient": self.entry.exact_gradient,
        }
        if self.regularizer == "none":
            return learner_checks(self.build, trains=self.entry.trains, adapts=self.entry.adapts, **claims)
        entry = self.regularizer_entry
        return regularizer_checks(
            lambda learner: self.regularize(learner)[0],
            learner=self.build,
            weighted=entry.weighted,
            random=entry.random,
            **claims,
        )

    @contextmanager
    def advice(self) -> Iterator[None]:
        """Say what to do about an error in a combination that is thought to have a meaning."""
        try:
            yield
        except MetaLensError as error:
            if self.refusal is None:
                error.add_note(f"If {self} has no meaning, let REFUSALS in catalogue.py cover it.")
            raise

    def __str__(self) -> str:
        return f"{self.learner}-{self.regularizer}-{self.network}-{self.kind}"


@functools.cache
def tasks_for(network: str, kind: str) -> Task:
    tasks = (classification_tasks if kind == "classification" else regression_tasks)(network)
    descriptors = torch.randn(N_TASKS, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return Task(tasks.support, tasks.query, descriptors)


def is_fast(case: Case, check: str) -> bool:
    """Return whether a check of a combination is in the fast run; the others are in the full one.

    It keeps all that a mutant of a method is met by (see tools/mutation.py), every pair of a learner and a
    regularizer or network (but for learners with solvers), and every pair of a regularizer and a
    normalization or attention layer.
    """
    if check == "mixed_mode_equals_reverse_mode" and case.regularizer not in ("none", "TRLearner"):
        return case.learner == "MAML" and (case.network, case.kind) == ("mlp", "classification")
    if case.network == "mlp":
        if case.regularizer == "none" or case.learner in VARIANT_LEARNERS:
            return True
        if case.learner in SOLVERS and case.regularizer != "TRLearner":
            return False
        return case.kind == "classification" and check in {*CROSSED, "weight_zero_equals_no_regularizer"}
    if case.kind == "regression" or case.learner in SOLVERS:
        return False
    if case.regularizer == "none":
        return check in CROSSED or (case.network == "conv-norm" and case.learner in ("MAML", "R2D2"))
    return case.learner == "MAML" and check == "vmap_and_chunks_equal_loop"


SOLVERS = ("ADKF", "IMAML")  # they solve a problem in every task, which takes seconds
CROSSED = ("vmap_and_chunks_equal_loop", "gradient_equals_finite_difference")


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
REFUSED = [case for case in ALL if case.refusal is not None]

# The cases that are also replayed from a recording, or trained side by side.
REPLICATED = [
    case
    for case in MEANINGFUL
    if case.entry.trains
    and (case.network, case.kind) == ("mlp", "classification")
    and (case.regularizer == "none" or case.learner == "MAML")
]
COMPILED = [
    case
    for case in REPLICATED
    if case.regularizer_entry.compiles and type(case.build()).compile_refusal is None
]
