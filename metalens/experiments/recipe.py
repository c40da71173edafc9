"""A recipe: everything that determines an experiment, as plain values."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar

from metalens.data import Split, TaskDistribution
from metalens.errors import MetaLensError
from metalens.execution.machine import Machine
from metalens.networks import Network
from metalens.processes import Processes
from metalens.specs.defaults import Presets
from metalens.training.settings import OuterSettings, TrainingSettings

Settings = dict[str, Any]

FIXED = ("name", "description")  # these cannot be set
# An experiment is long enough for trials of its steps, and its process can keep the memory.
MACHINE = Machine(profile=True, keep_freed_memory=True)
ONE_THREAD = replace(MACHINE, threads=1)  # for networks so small that more threads are slower


@dataclass(frozen=True, kw_only=True)
class Recipe(OuterSettings, ABC):
    """An experiment: arms (learner, regularizers and task sampler) compared on the same tasks.

    Each seed is one complete replication: its own initialization, training, validation and test tasks,
    shared by all arms of that seed. The settings define the result, except for `machine`, on which it depends
    only up to rounding.

    Args:
        name: its name on the command line.
        description: one line.
        learner: learners to compare: MAML, or with settings MAML(inner_lr=0.1, inner_steps=5).
        regularizers: regularizers to compare, each one an arm: none, TRLearner, TRLearner(weight=0.3);
            joined by + they act together.
        sampler: task samplers to compare, each with every arm: Uniform, Related(anchors=2, neighbors=3).
        seeds: one replication each.
        k_shot: support examples (per class in classification).
        n_query: query examples (per class in classification), in training and testing.
        n_val_tasks: validation tasks, which decide the weights that are kept; 0 keeps the last weights.
        validate_every: outer steps between two validations.
        n_test_tasks: test tasks of each seed.
        machine: how training runs on this machine.
    """

    name: str
    description: str
    learner: list[str] = field(default_factory=lambda: ["MAML"])
    regularizers: list[str] = field(default_factory=lambda: ["none", "TRLearner"])
    sampler: list[str] = field(default_factory=lambda: ["Uniform"])
    seeds: list[int] = field(default_factory=lambda: [0])
    steps: int = 2000
    meta_batch_size: int = 25
    k_shot: int = 5
    n_query: int = 15
    n_val_tasks: int = 200
    validate_every: int = 500
    n_test_tasks: int = 600
    machine: Machine = MACHINE

    presets: ClassVar[Presets] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("learner", "regularizers", "sampler", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise MetaLensError(f"{name} must name at least one, each once, got {values}.")
        for name in ("n_test_tasks", "validate_every"):
            if getattr(self, name) < 1:
                raise MetaLensError(f"{name} must be at least 1, got {getattr(self, name)}.")
        Processes(world_size=self.machine.devices).shard(range(self.meta_batch_size))  # raises if unequal
        if self.n_val_tasks < 0:
            raise MetaLensError(f"n_val_tasks must be 0 or more, got {self.n_val_tasks}.")
        if not all(0 <= seed < 2**63 for seed in self.seeds):
            raise MetaLensError(f"seeds must be 0 or more and below 2^63, got {self.seeds}.")

    @property
    def configuration(self) -> Settings:
        """The settings that define the result, as plain values: all but the machine."""
        return {name: value for name, value in asdict(self).items() if name != "machine"}

    @property
    def identity(self) -> Settings:
        """All settings by name, those of the machine as `machine.threads`."""
        machine = {f"machine.{name}": value for name, value in asdict(self.machine).items()}
        return {**self.configuration, **machine}

    def tuned(self, learner: str) -> Settings:
        """Return the defaults of a learner's settings for this recipe."""
        return self.presets.get(learner, {})

    def values(self, *names: str) -> Settings:
        """Return some of the settings by name."""
        return {name: getattr(self, name) for name in names}

    def training(self, seed: int) -> TrainingSettings:
        """Return the settings by which every arm is trained."""
        return TrainingSettings(**self.values(*(field.name for field in fields(OuterSettings))), seed=seed)

    @abstractmethod
    def distribution(self, split: Split, seed: int) -> TaskDistribution:
        """Return the tasks of one split for one seed."""

    @abstractmethod
    def network(self) -> Network:
        """Return a freshly initialized network."""

    def saved_network(self) -> Network:
        """Return a network for weights that a training saved: one of `network` that reads no file."""
        return self.network()

    def curve_distribution(self, seed: int) -> TaskDistribution | None:
        """Return the test tasks with dense queries for figures of curves; `None` for other tasks."""
        return None
