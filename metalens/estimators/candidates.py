"""What an estimator trains, compares and has adapt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from metalens.errors import MetaLensError
from metalens.estimators.choice import Choice
from metalens.estimators.models import Candidate, named_baselines, trained_on_tasks
from metalens.estimators.settings import EstimatorSettings
from metalens.estimators.tables import TableReader
from metalens.estimators.training import Trainee
from metalens.execution.machine import Machine
from metalens.learners import Learner
from metalens.networks import Network
from metalens.objective import Objective
from metalens.specs.calls import build_baseline, learner_call
from metalens.specs.defaults import MOLECULE_PRESETS, TABLE_PRESETS


class ChosenModels(EstimatorSettings, ABC):
    """The models of an estimator: those that are trained, the candidates, and what was chosen of them."""

    k_shot_: int
    reader_: Any
    _trained: dict[str, list[Objective]]  # by name, the meta-learner first; one for each seed
    _choices: dict[int, Choice]  # by the number of support rows

    @property
    def chosen_(self) -> str:
        """The name of what adapts to `k_shot_` support rows; set it to have another model adapt."""
        return self._choices[self.k_shot_].model

    @chosen_.setter
    def chosen_(self, name: str) -> None:
        if name not in (self.chosen_, *self._names()):
            raise MetaLensError(f"chosen_ must be one of {', '.join(self._names())}, got {name!r}.")
        if name != self.chosen_:
            self._choices = {k_shot: choice.of_one(name) for k_shot, choice in self._choices.items()}

    @property
    def weights_(self) -> dict[int, dict[str, float]]:
        """The weights of the models in the mean that is predicted, by the number of support rows."""
        return {k_shot: choice.weights for k_shot, choice in sorted(self._choices.items())}

    @abstractmethod
    def _network(self) -> Network:
        """Return a new network for the training tasks."""

    @abstractmethod
    def _learner(self) -> str:
        """Return the text of the learner."""

    @abstractmethod
    def _usual_baselines(self) -> Sequence[str]:
        """Return the baselines to compare with by default."""

    def _resized(self, learner: Learner, n_outputs: int) -> Learner:
        """Return a trained learner for tasks with this number of outputs."""
        return learner

    def _trainees(self) -> dict[str, Trainee]:
        """Return what is trained by name, the meta-learner first; only it has regularizers."""
        seeds = range(self.random_state, self.random_state + self.seeds)
        of_all = (self._network, self._tuned, seeds)
        text = self._learner()
        given = [self.regularizers] if isinstance(self.regularizers, str) else self.regularizers
        regularizers = " + ".join(given) or "none"
        trainees = {learner_call(text).name: Trainee(text, regularizers, self.sampler, *of_all)}
        baselines = self._baselines()
        for name in baselines:
            if (trained := trained_on_tasks(name)) is not None:
                text = baselines.get(trained, trained)
                trainees.setdefault(trained, Trainee(text, "none", "Uniform", *of_all))
        return trainees

    def _baselines(self) -> dict[str, str]:
        """Return the texts of the baselines by name."""
        given = [self.baselines] if isinstance(self.baselines, str) else self.baselines
        texts = self._usual_baselines() if given is None else given
        return named_baselines(texts, self._learner())

    def _tuned(self, learner: str) -> dict[str, Any]:
        """Return the default settings of a learner; they differ for molecules."""
        return (MOLECULE_PRESETS if self._has_molecules else TABLE_PRESETS).get(learner, {})

    @property
    def _has_molecules(self) -> bool:
        return isinstance(self.reader_, TableReader) and self.reader_.encoding.smiles is not None

    @property
    def _machine(self) -> Machine:
        # The networks of tables are so small that a second thread waits, and long if the machine is busy.
        return Machine(threads=1 if isinstance(self.reader_, TableReader) else None)

    def _objectives(self) -> Iterator[tuple[str, Objective]]:
        """Yield the trained objectives, each with the prefix of the names of its saved tensors."""
        for name, objectives in self._trained.items():
            for seed, objective in enumerate(objectives):
                yield f"{name}.{seed}.", objective

    def _names(self) -> list[str]:
        """Return the names of the candidates, the meta-learner's first."""
        ready = (None, *self._trained)  # without those that diverged
        baselines = [name for name in self._baselines() if trained_on_tasks(name) in ready]
        return list(dict.fromkeys((next(iter(self._trained)), *baselines)))

    def _candidate(self, name: str, n_outputs: int) -> Candidate:
        """Return a candidate for tasks with this number of outputs."""
        if name in self._trained:
            learners = [objective.learner.eval() for objective in self._trained[name]]
            return Candidate.of_one_kind(name, [self._resized(learner, n_outputs) for learner in learners])
        learner = build_baseline(self._baselines()[name], n_outputs, self._tuned)
        return Candidate.of_one_kind(name, [learner])

    def _candidates(self, n_outputs: int) -> list[Candidate]:
        return [self._candidate(name, n_outputs) for name in self._names()]

    def _adapting(self, n_support: int, n_outputs: int) -> Candidate:
        """Return what adapts to a number of support rows, as chosen for as many or the next lower one."""
        choice = self._choice(n_support) or self._choices[min(self._choices)]
        parts = [(weight, self._candidate(name, n_outputs)) for name, weight in choice.weights.items()]
        return Candidate.stack(choice.model, parts)

    def _choice(self, n_support: int) -> Choice | None:
        """Return what was chosen for this number of support rows or the next lower one."""
        known = [k_shot for k_shot in self._choices if k_shot <= n_support]
        return self._choices[max(known)] if known else None
