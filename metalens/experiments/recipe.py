"""A recipe: everything that determines an experiment, as plain values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

from metalens.data import Split, TaskDistribution
from metalens.errors import MetaLensError
from metalens.execution.machine import Machine
from metalens.networks import Network
from metalens.processes import Processes
from metalens.training.settings import OnNonfinite, OuterOptimizer, Schedule, TrainingSettings

Settings = dict[str, Any]
Strategy = Literal["auto", "ddp", "ddp_find_unused_parameters_true"]
Precision = Literal["32-true", "64-true", "bf16-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """An experiment: arms (learner, regularizers and task sampler) compared on the same tasks.

    Each seed is one complete replication: its own initialization, training, validation and test tasks,
    shared by all arms of that seed.

    Args:
        name: what the command line calls it.
        description: one line for people.
        learner: learners to compare: MAML, or with settings MAML(inner_lr=0.1, inner_steps=5).
        regularizers: regularizers to compare, each one an arm: none, TRLearner, TRLearner(weight=0.3);
            joined by + they act together.
        sampler: task samplers to compare, each with every arm: Uniform, Related(anchors=2, neighbors=3).
        seeds: one replication each.
        steps: outer steps.
        meta_batch_size: tasks per outer step.
        outer_lr: step size of the outer loop.
        outer_optimizer: adam or sgd.
        schedule: of the outer step size: constant, or linear or cosine down to 0.
        clip_norm: largest norm of the outer gradient; null for no limit.
        on_nonfinite: a step whose loss or gradient is not finite ends training (raise), is left out (skip),
            or is made without those entries of the gradient (clip).
        k_shot: support examples (per class in classification).
        n_query: query examples (per class in classification), in training and testing.
        n_val_tasks: validation tasks, which decide the weights that are kept; 0 keeps the last weights.
        validate_every: outer steps between two validations.
        n_test_tasks: test tasks of each seed.
        batching: how tasks are mapped: auto, vmap or loop.
        chunk: tasks that are computed at a time, to save memory; null for all, auto for as many as fit.
        compile: whether the training step becomes one compiled program: auto, true or false.
        together: whether seeds are trained side by side: auto (where possible), true or false.
        workers: processes that train at the same time, or ray for a Ray cluster.
        threads: processor threads of each process; null leaves the number to PyTorch.
        accelerator: where to compute, as Lightning Fabric names it: auto, cpu, cuda, mps.
        devices: processes on this machine that share the tasks of every step, each with a device of its own.
        strategy: how they work together, as Lightning Fabric names it; auto is ddp for several of them.
        precision: of numbers in training, as Lightning Fabric names it.
    """

    name: str
    description: str
    learner: list[str] = field(default_factory=lambda: ["MAML"])
    regularizers: list[str] = field(default_factory=lambda: ["none", "TRLearner"])
    sampler: list[str] = field(default_factory=lambda: ["Uniform"])
    seeds: list[int] = field(default_factory=lambda: [0])
    steps: int = 2000
    meta_batch_size: int = 25
    outer_lr: float = 1e-3
    outer_optimizer: OuterOptimizer = "adam"
    schedule: Schedule = "constant"
    clip_norm: float | None = None
    on_nonfinite: OnNonfinite = "raise"
    k_shot: int = 5
    n_query: int = 15
    n_val_tasks: int = 200
    validate_every: int = 500
    n_test_tasks: int = 600
    batching: Literal["auto", "vmap", "loop"] = "auto"
    chunk: int | Literal["auto"] | None = "auto"
    compile: Literal["auto"] | bool = "auto"
    together: Literal["auto"] | bool = "auto"
    workers: int | Literal["ray"] = 1
    threads: int | None = None
    accelerator: str = "auto"
    devices: int = 1
    strategy: Strategy = "auto"
    precision: Precision = "32-true"

    def __post_init__(self) -> None:
        for name in ("learner", "regularizers", "sampler", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise MetaLensError(f"{name} must name at least one, each once, got {values}.")
        for name in ("steps", "meta_batch_size", "n_test_tasks", "validate_every", "devices"):
            if getattr(self, name) < 1:
                raise MetaLensError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.workers != "ray" and self.workers < 1:
            raise MetaLensError(f"workers must be at least 1, or ray, got {self.workers}.")
        Processes(world_size=self.devices).shard(
            range(self.meta_batch_size)
        )  # raises where it cannot be shared
        if self.workers != 1 and self.devices > 1:
            raise MetaLensError(
                f"Only one of workers and devices can be above 1, got workers={self.workers} and "
                f"devices={self.devices}: each worker trains by itself."
            )
        if self.threads is not None and self.threads < 1:
            raise MetaLensError(f"threads must be at least 1, or null, got {self.threads}.")
        if self.n_val_tasks < 0:
            raise MetaLensError(f"n_val_tasks must be 0 or more, got {self.n_val_tasks}.")
        if not all(0 <= seed < 2**63 for seed in self.seeds):
            raise MetaLensError(f"seeds must be 0 or more and below 2^63, got {self.seeds}.")
        for name in ("outer_lr", "clip_norm"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < math.inf:
                raise MetaLensError(f"{name} must be above 0 and finite, got {rate}.")

    def tuned(self, learner: str) -> Settings:
        """Return the settings of a learner for this benchmark, used where a call does not say otherwise."""
        return {}

    @property
    def machine(self) -> Machine:
        """How training runs: profiled, and with freed memory kept."""
        return Machine(
            accelerator=self.accelerator,
            devices=self.devices,
            strategy=self.strategy,
            precision=self.precision,
            threads=self.threads,
            batching=self.batching,
            chunk=self.chunk,
            compile=self.compile,
            profile=True,
            keep_freed_memory=True,
            workers=self.workers,
            together=self.together,
        )

    def training(self, seed: int) -> TrainingSettings:
        """Return the settings by which every arm is trained."""
        return TrainingSettings(
            steps=self.steps,
            meta_batch_size=self.meta_batch_size,
            outer_lr=self.outer_lr,
            outer_optimizer=self.outer_optimizer,
            schedule=self.schedule,
            clip_norm=self.clip_norm,
            on_nonfinite=self.on_nonfinite,
            seed=seed,
        )

    @abstractmethod
    def distribution(self, split: Split, seed: int) -> TaskDistribution:
        """Return the tasks of one split for one seed."""

    @abstractmethod
    def network(self) -> Network:
        """Return a freshly initialized network."""

    def curve_distribution(self, seed: int) -> TaskDistribution | None:
        """Return the test tasks with dense queries, to be drawn as curves; `None` if they are no curves."""
        return None
