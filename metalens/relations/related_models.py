"""Relations at test time: predict a new task with its own model and the models of related tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks
from metalens.batching import task_map
from metalens.data import TaskDistribution
from metalens.errors import MetaLensError, check_choice, check_counts, check_number, check_positive
from metalens.evaluation import Validation, metrics_of
from metalens.fields import Fields
from metalens.learners import Learner, State
from metalens.learners.classification import MIN_PROBABILITY, one_hot
from metalens.learners.inputs import check_fields
from metalens.metrics import Metric, task_metrics
from metalens.networks.modes import module_mode
from metalens.relations.slots import slot_maps
from metalens.relations.stacked import stacked_weights
from metalens.tasks import Examples, Task, place

if TYPE_CHECKING:
    import pandas as pd

RelatedBy = Literal["predictions", "regression", "features", "adaptation", "uniform", "shuffled"]
Slots = Literal["fixed", "random"]

CHUNK = 50  # tasks adapted at a time; bounds memory


class RelatedModels(Learner):
    """Predict a task with its own model and the models of related known tasks.

    A trained learner adapts to all examples of P known tasks, which gives the models `f_1 ... f_P`. With the
    own model f of a new task with support set S,

        f'(x) = (1 - share) f(x) + share sum_p w_p f_p(x),    w = softmax(r / temperature)

    The relation r_p of the new task to known task p is how well that task's model predicts its support,

        r_p = -loss(f_p(S.x), S.y)

    or a cosine, or 0. Or the weights are those of a regression, of both signs, see `Stacked`:

        w = argmin_w (1/s) sum_k || sum_p w_p f_p(S.x_k) - S.y_k ||^2 + temperature ||w - 1/P||^2

    Outputs are averaged: numbers, or logits of classes that mean the same in all tasks. With random slots the
    probabilities of the task's classes, which the known models' slots stand for by `slot_maps`, are averaged,
    and a regression explains 1 for the class of an example and 0 for others. Nothing is trained.

    Args:
        learner: a trained learner; its present models are used.
        tasks: of the known tasks, such as the training tasks.
        n_tasks: P; the known tasks are numbers `0 ... P - 1`.
        related_by: `"predictions"` as above; `"regression"`; `"features"`, the cosine of mean support
            features under the meta-parameters; `"adaptation"`, the cosine of the displacements of
            adapted parameters; as controls `"uniform"`, 0, and `"shuffled"`, predictions of the wrong known
            tasks.
        share: of the related models, from 0 to 1.
        temperature: in units of the loss, or of the cosine; smaller values use fewer models. Of a regression
            it is the strength of the ridge, in squared units of the outputs.
        slots: of classes: `"fixed"`, slot k means the same in all tasks, or `"random"`.

    Raises:
        MetaLensError: a setting is out of range, or the learner has no adapted parameters to compare; a
            regression meets classes in fixed slots, or random slots meet numbers.

    >>> from metalens import MAML, RelatedModels, Sinusoid, mlp
    >>> learner = RelatedModels(MAML(mlp()), Sinusoid(), n_tasks=20)
    >>> task = Sinusoid("test")[0]
    >>> learner(task.support)(task.query.x).shape
    torch.Size([15, 1])

    Source: ours; the paper of `TRLearner` relates tasks in training only. Profile methods in drug discovery
    use models of known tasks as well, such as E. Martin and others, "All-Assay-Max2 pQSAR", J. Chem. Inf.
    Model. 59, 2019.
    """

    regularizer_refusal = "it is not trained."
    vectors: Tensor

    def __init__(
        self,
        learner: Learner,
        tasks: TaskDistribution,
        *,
        n_tasks: int = 100,
        related_by: RelatedBy = "predictions",
        share: float = 0.5,
        temperature: float = 0.1,
        slots: Slots = "fixed",
    ) -> None:
        check_counts(self, n_tasks=n_tasks)
        check_choice(self, "related_by", related_by, RelatedBy)
        check_choice(self, "slots", slots, Slots)
        check_positive(self, temperature=temperature)
        self._check_share(share)
        if related_by == "adaptation" and not learner.adapted_parameters():
            raise MetaLensError(
                f"RelatedModels: related_by='adaptation' needs parameters that adapt, and "
                f"{type(learner).__name__} has none; use 'predictions' or 'features'."
            )
        check_fields(learner, tasks)
        super().__init__(loss=learner.loss)
        self.metrics = learner.metrics
        self.learner, self.n_tasks = learner, n_tasks
        self.related_by: RelatedBy = related_by
        self.share, self.temperature = share, temperature
        self.slots: Slots = slots
        self.head_only = learner.head_only
        with module_mode(learner, training=False), torch.no_grad():
            models, vectors = zip(*(self._known(tasks, part) for part in _parts(n_tasks)), strict=True)
        self._names = list(models[0])
        for number, name in enumerate(self._names):
            self.register_buffer(f"models_{number}", torch.cat([model[name] for model in models]))
        self.register_buffer("vectors", torch.cat(vectors))

    @property
    def models(self) -> State:
        """The states of the learner for the P known tasks, each tensor `(P, ...)`."""
        return {name: self.get_buffer(f"models_{number}") for number, name in enumerate(self._names)}

    @property
    def fields(self) -> Fields | None:
        return self.learner.fields

    @property
    def vmap_refusal(self) -> str | None:
        return self.learner.vmap_refusal

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        own = self.learner.adapt_encoded(z, y)
        known = self._evidence(own, z, y)
        known["weights"] = self._weights(known.pop("evidence"), y, self.temperature)
        return {**{f"own.{name}": value for name, value in own.items()}, **known}

    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        own = {name.removeprefix("own."): value for name, value in state.items() if name.startswith("own.")}
        related = _average(state["weights"], self.all_predictions(z), state.get("slots"))
        return (1 - self.share) * self.learner.predict_encoded(own, z) + self.share * related

    def outer_loss(self, state: State, predictions: Tensor, z: Tensor, y: Tensor) -> Tensor:
        raise MetaLensError("RelatedModels is not trained: train its learner first, then create it.")

    def encode(self, x: Tensor) -> Tensor:
        return self.learner.encode(x)

    def features(self, z: Tensor) -> Tensor:
        return self.learner.features(z)

    def all_predictions(self, z: Tensor) -> Tensor:
        """Return the predictions of all known tasks' models for encoded inputs `(n, ...)`, `(P, n, c)`."""
        plan = self.learner.plan("auto")
        return task_map(lambda state: self.learner.predict_encoded(state, z), self.models, plan=plan)

    def _evidence(self, own: State, z: Tensor, y: Tensor) -> State:
        """Return `"evidence"`, what tells the weights of the known tasks, and with random slots `"slots"`.

        The evidence are their relations r to a task, `(P,)`, or for a regression their models' predictions of
        its support, `(P, s, c)`. The slots are their maps, see `slot_maps`.

        Args:
            own: the state of the learner for the task.
            z: encoded support inputs, `(s, ...)`.
            y: their targets.
        """
        if self.slots == "random" and y.is_floating_point():
            raise MetaLensError("RelatedModels: slots='random' is for classes as targets, got numbers.")
        found: State = {}
        by_outputs = self.related_by in ("predictions", "regression", "shuffled")
        if by_outputs or self.slots == "random":
            outputs = self.all_predictions(z)
            if self.slots == "random":
                found["slots"] = slot_maps(outputs, y, outputs.shape[-1])
                outputs = outputs.softmax(-1) @ found["slots"]
            found["evidence"] = outputs
        if self.related_by in ("features", "adaptation"):
            found["evidence"] = F.cosine_similarity(self._vector(own, z), self.vectors, dim=-1)
        elif self.related_by == "uniform":
            found["evidence"] = self.vectors.new_zeros(self.n_tasks)
        elif self.related_by != "regression":
            found["evidence"] = self._success(found["evidence"], y)
        return found

    def _success(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return how well the known models predict a support set, `(P,)`, from their outputs `(P, s, c)`."""
        outputs = outputs.log() if self.slots == "random" else outputs
        # As a mapped tree, y has the batch axes of the outputs: vmap would mistake them otherwise.
        y = y.expand(self.n_tasks, *y.shape)
        success = -task_map(self.loss, outputs, y, plan=self.learner.plan("auto"))
        return success.roll(1) if self.related_by == "shuffled" else success

    def _weights(self, evidence: Tensor, y: Tensor, temperature: float) -> Tensor:
        """Return the weights of the known tasks' models, `(..., P)`, for support targets `(..., s, c)`."""
        if self.related_by != "regression":
            return torch.softmax(evidence / temperature, -1)
        if not y.is_floating_point():
            if self.slots == "fixed":
                raise MetaLensError(
                    "RelatedModels: related_by='regression' takes classes with slots='random' alone, which "
                    "finds what the known tasks' classes mean; got slots='fixed'."
                )
            y = one_hot(y, evidence.shape[-1], evidence.dtype)
        equal = evidence.new_full(evidence.shape[:-2], 1 / self.n_tasks)
        return stacked_weights(evidence, y, equal, temperature)

    @torch.no_grad()
    def choose(
        self,
        validation: Validation,
        *,
        shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
        temperatures: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0),
    ) -> pd.DataFrame:
        """Set share and temperature to those with the best mean score on held-out tasks.

        Args:
            validation: the tasks, and how many; of equal scores the first one counts.
            shares: to choose from; 0 for the learner's own model only.
            temperatures: to choose from.

        Returns:
            Rows `share, temperature, score`, the mean of the primary metric, see `evaluate`.

        Raises:
            MetaLensError: there is nothing to choose from, or a share or temperature is out of range.

        >>> from metalens import MAML, Sinusoid, mlp
        >>> learner = RelatedModels(MAML(mlp()), Sinusoid(), n_tasks=5)
        >>> scores = learner.choose(Validation(Sinusoid("val"), n_tasks=3), shares=[0.0, 1.0])
        >>> (learner.share, learner.temperature) in list(zip(scores.share, scores.temperature))
        True
        """
        import pandas as pd  # slow to import

        if not shares or not temperatures:
            raise MetaLensError("RelatedModels: choose needs at least one of shares and of temperatures.")
        for share in shares:
            self._check_share(share)
        for temperature in temperatures:
            check_positive(self, temperature=temperature)
        scores: dict[tuple[float, float], list[Tensor]] = {}
        metric: Metric | None = None
        with module_mode(self, training=False):
            for part in _parts(validation.n_tasks):
                batch = place(validation.tasks.batch(part), self.device, self.dtype)
                metric = metrics_of(self, validation.tasks, batch.query.y, validation.metrics)[0]
                adapted = AdaptedTasks(self.learner, batch)
                own = adapted.query_predictions
                related = adapted.map(self.all_predictions, adapted.query_encoding)
                support = adapted.states, adapted.support_encoding, batch.support.y
                known = adapted.map(self._evidence, *support)
                for temperature in temperatures:
                    weights = self._weights(known["evidence"], batch.support.y, temperature)
                    average = _average(weights, related, known.get("slots"))
                    for share in shares:
                        predictions = (1 - share) * own + share * average
                        sides = batch.query.y, batch.support.y
                        losses = partial(adapted.map, self.loss, predictions, batch.query.y)
                        values = task_metrics(predictions, *sides, [metric], losses)[metric.name]
                        scores.setdefault((share, temperature), []).append(values)
        assert metric is not None  # a validation has a task
        rows = [(*pair, torch.cat(values).mean().item()) for pair, values in scores.items()]
        table = pd.DataFrame(rows, columns=["share", "temperature", "score"])
        score = metric.sign * table["score"]
        self.share, self.temperature, _ = rows[int(score.fillna(-math.inf).to_numpy().argmax())]
        return table

    def _check_share(self, share: float) -> None:
        check_number("RelatedModels: share", share)
        if not 0 <= share <= 1:
            raise MetaLensError(f"RelatedModels: share must be from 0 to 1, got {share}.")

    def _known(self, tasks: TaskDistribution, numbers: range) -> tuple[State, Tensor]:
        """Return the states and the vectors of some known tasks, from all their examples."""
        batch = place(tasks.batch(numbers), self.device, self.dtype)
        pairs = zip(batch.support, batch.query, strict=True)
        everything = Examples(*(torch.cat(pair, dim=1) for pair in pairs))
        adapted = AdaptedTasks(self.learner, Task(everything, batch.query))
        return adapted.states, adapted.map(self._vector, adapted.states, adapted.support_encoding)

    def _vector(self, state: State, z: Tensor) -> Tensor:
        """Return the vector of one task for cosines."""
        if self.related_by == "features":
            return self.learner.features(z).mean(0)
        if self.related_by == "adaptation":
            before = self.learner.adapted_parameters()
            return torch.cat([(state[name] - value).flatten() for name, value in before.items()])
        return z.new_zeros(1)


def _average(weights: Tensor, predictions: Tensor, slots: Tensor | None) -> Tensor:
    """Return the weighted average of predictions `(..., P, n, c)`; log probabilities if slots are random."""
    if slots is None:
        return torch.einsum("...p,...pnc->...nc", weights, predictions)
    average = torch.einsum("...p,...pnc->...nc", weights, predictions.softmax(-1) @ slots)
    return average.clamp(min=MIN_PROBABILITY).log()


def _parts(n: int) -> Iterator[range]:
    """Yield the numbers of n tasks in chunks."""
    for start in range(0, n, CHUNK):
        yield range(start, min(start + CHUNK, n))
