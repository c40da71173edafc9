"""Adaptive sampler: task weights are learned from diversity, entropy and difficulty."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks, adapted_loss
from metalens.batching import task_map
from metalens.data import TaskDistribution
from metalens.errors import MetaLensError
from metalens.learners.classification import one_hot
from metalens.objective import Objective
from metalens.samplers.base import Choice, adapted_candidates
from paper.samplers.gradients import (
    example_losses,
    example_slopes,
    start,
    support_loss,
    task_gradients,
    weights_of,
)
from paper.samplers.held_out import HeldOutSampler, generator_of
from paper.samplers.weighting import Weighting, drawn

Use = Literal["weights", "tasks", "examples"]

SIGMA = EPSILON = 0.1  # distortions of the two coding rates


class ASr(HeldOutSampler):
    """Weight or draw tasks by learned weights, from three scores of each task.

    Z `(n, d)` are the features of the support set with rows of length 1, C_c is the indicator of class c:

        diversity  = 1/2 logdet(I + d / (n sigma^2) Z'Z)
        entropy    = sum_c n_c / (2n) logdet(I + d / (n_c epsilon^2) Z' C_c Z),   n_c = tr C_c
        difficulty = |grad L(support; theta)|^2

    with sigma = epsilon = 0.1. A small network phi maps the scores, standardized over the candidates, to
    weights `w = softmax(phi(scores))`. It is trained one step ahead, on held-out tasks of that step:

        theta' = theta - eta sum_i w_i grad L_i(theta),   phi descends the mean of L_held_out(theta')

    whose exact gradient by w_i is `-eta grad L_i(theta) . grad L_held_out(theta')`. The weights are then used
    as weights of the batch's tasks, to draw the batch from more candidates, or to draw some examples of each
    task.

    Args:
        use: `"weights"`: tasks in turn, weighted by w. `"tasks"`: the batch is drawn from the candidates
            without replacement, with probabilities w. `"examples"`: tasks in turn, with `n_query_hat` query
            examples each, drawn in the same way by weights of examples.
        oversampling: candidates per task of the batch, with `use="tasks"`.
        n_query_hat: number of query examples of each task to keep, with `use="examples"`.
        held_out: number of tasks on which phi is trained at each step; they are not candidates of that step.
        lookahead: eta, the size of the step ahead.
        lr: step size of phi.
        hidden: units of phi.

    Raises:
        MetaLensError: a setting is out of range. See also `CandidateSampler`.

    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> choice = ASr().choose(Objective(MAML(mlp())), Sinusoid(), step=0, meta_batch_size=4)
    >>> round(choice.weights.sum().item(), 4)
    1.0

    Source: J. Wang, W. Qiang and others, "Towards Task Sampler Learning for Meta-Learning", 2023,
    arXiv 2307.08924; the coding rates are those of Y. Yu and others, 2020, arXiv 2006.08558. Deviations,
    where the public text is silent or its code cannot run: the three uses; phi starts with equal weights;
    held-out tasks are further training tasks; regularizers take no part in L. In regression the two classes
    are the halves of the examples with smaller and larger targets. A learner that does not go by steps has
    its difficulty after adaptation. With `use="examples"` the scores of a query example are how much
    diversity and entropy the set loses without it, and the squared gradient of its loss by its prediction,
    and weights add up to 1 in each task.
    """

    asks_model = True

    def __init__(
        self,
        *,
        use: Use = "weights",
        oversampling: int = 4,
        n_query_hat: int | None = None,
        held_out: int = 8,
        lookahead: float = 0.01,
        lr: float = 0.003,
        hidden: int = 16,
    ) -> None:
        if use not in get_args(Use):
            raise MetaLensError(f"ASr: use must be one of {', '.join(get_args(Use))}, got {use!r}.")
        if (use == "examples") != (n_query_hat is not None):
            raise MetaLensError("ASr: n_query_hat belongs to use='examples'; give both or neither.")
        super().__init__(oversampling=oversampling if use == "tasks" else 1)
        for name, size in (("held_out", held_out), ("hidden", hidden), ("n_query_hat", n_query_hat)):
            if size is not None and size < 1:
                raise MetaLensError(f"ASr: {name} must be at least 1, got {size}.")
        for name, rate in (("lookahead", lookahead), ("lr", lr)):
            if not 0 < rate < math.inf:
                raise MetaLensError(f"ASr: {name} must be above 0 and finite, got {rate}.")
        self.use: Use = use
        self.weighs = use == "weights"
        self.n_query_hat, self.held_out = n_query_hat, held_out
        self.lookahead, self.lr, self.hidden = lookahead, lr, hidden
        self.weighting: Weighting | None = None

    def check(self, objective: Objective, tasks: TaskDistribution, meta_batch_size: int) -> None:
        super().check(objective, tasks, meta_batch_size)
        n_query = len(tasks[0].query.y)
        if self.n_query_hat is not None and self.n_query_hat > n_query:
            raise MetaLensError(f"ASr: n_query_hat is {self.n_query_hat}, but a task has {n_query} queries.")

    def state_dict(self) -> dict[str, Any]:
        return {} if self.weighting is None else self.weighting.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.weighting = Weighting(3, hidden=self.hidden, lr=self.lr, seed=0)
            self.weighting.load_state_dict(state)

    def choose(
        self, objective: Objective, tasks: TaskDistribution, step: int, meta_batch_size: int
    ) -> Choice:
        if self.weighting is None:
            self.weighting = Weighting(3, hidden=self.hidden, lr=self.lr, seed=tasks.seed)
        numbers = self.candidates(tasks, step, meta_batch_size)
        with (
            adapted_candidates(objective, tasks, numbers) as adapted,
            adapted_candidates(
                objective, tasks, self.held_out_tasks(tasks, step, meta_batch_size)
            ) as held_out,
        ):
            score, slope = (
                (example_scores, slopes_of_examples)
                if self.use == "examples"
                else (task_scores, slopes_of_tasks)
            )
            scores = score(adapted)
            weights = self.weighting(scores).softmax(-1).to(objective.learner.device, objective.learner.dtype)
            slopes = slope(adapted, held_out, weights, self.lookahead)
        # Its gradient by phi is that of the held-out loss, as the slopes are those by the weights.
        self.weighting.descend((slopes.cpu().float() * self.weighting(scores).softmax(-1)).sum())
        logits = self.weighting(scores).detach()
        if self.use == "weights":
            return Choice(numbers, logits.softmax(0).to(weights))
        rng = generator_of(tasks, step)
        if self.use == "tasks":
            return Choice([numbers[place] for place in sorted(drawn(logits, meta_batch_size, rng).tolist())])
        assert self.n_query_hat is not None  # checked by the constructor
        return Choice(numbers, queries=drawn(logits, self.n_query_hat, rng).sort(-1).values)


def task_scores(adapted: AdaptedTasks) -> Tensor:
    """Return diversity, entropy and difficulty of every task, `(T, 3)`."""
    kernel = _kernel(adapted.support_features)
    members = _members(adapted.tasks.support.y, kernel.dtype)
    n, d = kernel.shape[-1], adapted.support_features.shape[-1]
    diversity = _logdet(d / (n * SIGMA**2) * kernel) / 2
    entropy = torch.zeros_like(diversity)
    for member in members.unbind(-1):  # (T, n)
        of_class = kernel * member.unsqueeze(-1) * member.unsqueeze(-2)
        size = member.sum(-1)
        rate = d / (size.clamp(min=1) * EPSILON**2)
        entropy += size / (2 * n) * _logdet(rate[:, None, None] * of_class)
    difficulty = task_gradients(adapted, support_loss).square().sum(1)
    return torch.stack([diversity, entropy, difficulty.to(diversity)], dim=-1)


def example_scores(adapted: AdaptedTasks) -> Tensor:
    """Return what each query example adds to diversity and entropy, and its difficulty, `(T, q, 3)`."""
    learner, y = adapted.learner, adapted.tasks.query.y
    features = adapted.map(learner.features, adapted.query_encoding)
    kernel = _kernel(features)
    members = _members(y, kernel.dtype)
    n, d = kernel.shape[-1], features.shape[-1]
    diversity = _lost_logdet(d / (n * SIGMA**2) * kernel) / 2
    same = members @ members.mT  # (T, q, q): pairs of one class
    size = same.sum(-1)  # (T, q): of each example's class
    rate = (d / (size * EPSILON**2)).unsqueeze(-1)
    entropy = size / (2 * n) * _lost_logdet(rate * same * kernel)

    def difficulty(support: Tensor, y_support: Tensor, query: Tensor, y_query: Tensor) -> Tensor:
        predictions = learner.predict_encoded(start(learner, support, y_support), query)

        def of_example(prediction: Tensor, target: Tensor) -> Tensor:
            slope = torch.func.grad(learner.loss)(prediction.unsqueeze(0), target.unsqueeze(0))
            return slope.square().sum()

        return task_map(of_example, predictions, y_query, plan="vmap")

    difficulties = adapted.map(
        difficulty, adapted.support_encoding, adapted.tasks.support.y, adapted.query_encoding, y
    )
    return torch.stack([diversity, entropy, difficulties.to(diversity)], dim=-1)


def slopes_of_tasks(adapted: AdaptedTasks, held_out: AdaptedTasks, weights: Tensor, eta: float) -> Tensor:
    """Return the slopes of the held-out loss one step ahead by the weights of tasks, `(T,)`."""
    gradients = task_gradients(adapted, adapted_loss)
    ahead = weights_of(adapted.learner) - eta * weights @ gradients
    return -eta * gradients @ task_gradients(held_out, adapted_loss, ahead).mean(0)


def slopes_of_examples(adapted: AdaptedTasks, held_out: AdaptedTasks, weights: Tensor, eta: float) -> Tensor:
    """Return the slopes of the held-out loss one step ahead by the weights of examples, `(T, q)`."""
    gradient = task_gradients(adapted, example_losses, weights=weights).mean(0)
    ahead = weights_of(adapted.learner) - eta * gradient
    direction = task_gradients(held_out, adapted_loss, ahead).mean(0)
    return -eta / adapted.n_tasks * example_slopes(adapted, direction)


def _kernel(features: Tensor) -> Tensor:
    """Return Z Z', `(T, n, n)`: `logdet(I + a Z'Z) = logdet(I + a Z Z')`, and n is smaller than d, mostly."""
    z = F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
    return z @ z.mT


def _members(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Return class indicators, `(T, n, c)`; for real targets, of the smaller and the larger half."""
    if y.is_floating_point():
        ranks = y.flatten(2).mean(-1).argsort(-1).argsort(-1)
        y = (ranks >= y.shape[1] // 2).long()
    return one_hot(y, int(y.max()) + 1, dtype)


def _logdet(matrix: Tensor) -> Tensor:
    """Return `logdet(I + matrix)`, `(T,)`."""
    return torch.linalg.slogdet(matrix + torch.eye(matrix.shape[-1]).to(matrix)).logabsdet


def _lost_logdet(matrix: Tensor) -> Tensor:
    """Return by how much `logdet(I + matrix)` falls without each row and its column, `(T, n)`."""
    inverse = torch.linalg.inv(matrix + torch.eye(matrix.shape[-1]).to(matrix))
    return -inverse.diagonal(dim1=-2, dim2=-1).log()
