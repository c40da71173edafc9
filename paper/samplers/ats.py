"""Adaptive task scheduler."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from metalens.adapted_tasks import AdaptedTasks, adapted_loss
from metalens.data import TaskDistribution
from metalens.errors import MetaLensError
from metalens.objective import Objective
from metalens.samplers.base import Choice, adapted_candidates
from paper.samplers.gradients import query_loss, support_loss, task_gradients, task_losses, weights_of
from paper.samplers.held_out import HeldOutSampler, generator_of
from paper.samplers.weighting import Weighting, drawn


class ATS(HeldOutSampler):
    """Draw tasks by a scheduler whose reward is the loss on held-out tasks after a step.

    The scheduler phi sees, for each candidate i, the outer loss and how well the gradients of its two sets
    agree before adaptation:

        s_i = (L(query_i; F(support_i)),  grad L(support_i; theta) . grad L(query_i; theta))
        p   = softmax(phi(s))

    A batch B is drawn from p without replacement and tried, `theta' = theta - eta mean_B grad L_i(theta)`;
    then phi ascends the reward, whose running mean is b, by the policy gradient

        (R - b) grad log P(B),   R = -mean L_held_out(theta')

    and the batch of the step is drawn again.

    Args:
        oversampling: candidates per task of the batch.
        held_out: number of tasks that give the reward of a step; they are not candidates of that step.
        lookahead: eta, the size of the trial step.
        lr: step size of phi.
        hidden: units of phi.
        memory: decay of the running mean.

    Raises:
        MetaLensError: a setting is out of range. See also `CandidateSampler`.

    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> choice = ATS().choose(Objective(MAML(mlp())), Sinusoid(), step=0, meta_batch_size=4)
    >>> len(set(choice.numbers))
    4

    Source: H. Yao and others, "Meta-learning with an Adaptive Task Scheduler", NeurIPS 2021,
    arXiv 2110.14057. Deviations: phi is a perceptron on scores standardized over the candidates, without the
    recurrent networks over the scores of earlier steps and without the progress of training; the reward is
    the negative loss, not the accuracy; held-out tasks are further training tasks, not validation tasks;
    regularizers take no part in L. A learner that does not go by steps has its gradients after adaptation.
    """

    asks_model = True

    def __init__(
        self,
        *,
        oversampling: int = 4,
        held_out: int = 8,
        lookahead: float = 0.01,
        lr: float = 0.003,
        hidden: int = 16,
        memory: float = 0.9,
    ) -> None:
        super().__init__(oversampling=oversampling)
        for name, size in (("held_out", held_out), ("hidden", hidden)):
            if size < 1:
                raise MetaLensError(f"ATS: {name} must be at least 1, got {size}.")
        for name, rate in (("lookahead", lookahead), ("lr", lr)):
            if not 0 < rate < math.inf:
                raise MetaLensError(f"ATS: {name} must be above 0 and finite, got {rate}.")
        if not 0 <= memory < 1:
            raise MetaLensError(f"ATS: memory must be 0 or more and below 1, got {memory}.")
        self.held_out, self.memory = held_out, memory
        self.lookahead, self.lr, self.hidden = lookahead, lr, hidden
        self.weighting: Weighting | None = None
        self._usual_reward: float | None = None

    def state_dict(self) -> dict[str, Any]:
        if self.weighting is None:
            return {}
        return {"weighting": self.weighting.state_dict(), "usual_reward": self._usual_reward}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.weighting = Weighting(2, hidden=self.hidden, lr=self.lr, seed=0)
            self.weighting.load_state_dict(state["weighting"])
            self._usual_reward = state["usual_reward"]

    def choose(
        self, objective: Objective, tasks: TaskDistribution, step: int, meta_batch_size: int
    ) -> Choice:
        if self.weighting is None:
            self.weighting = Weighting(2, hidden=self.hidden, lr=self.lr, seed=tasks.seed)
        rng = generator_of(tasks, step)
        numbers = self.candidates(tasks, step, meta_batch_size)
        with adapted_candidates(objective, tasks, numbers) as adapted:
            scores = scheduler_scores(adapted)
        tried = drawn(self.weighting(scores).detach(), meta_batch_size, rng)
        with (
            adapted_candidates(objective, tasks, [numbers[place] for place in tried.tolist()]) as adapted,
            adapted_candidates(
                objective, tasks, self.held_out_tasks(tasks, step, meta_batch_size)
            ) as held_out,
        ):
            gradient = task_gradients(adapted, adapted_loss).mean(0)
            ahead = weights_of(adapted.learner) - self.lookahead * gradient
            reward = -task_losses(held_out, adapted_loss, ahead).mean().item()
        if math.isfinite(reward):
            usual = reward if self._usual_reward is None else self._usual_reward
            self.weighting.descend((usual - reward) * log_probability(self.weighting(scores), tried))
            self._usual_reward = self.memory * usual + (1 - self.memory) * reward
        final = drawn(self.weighting(scores).detach(), meta_batch_size, rng)
        return Choice([numbers[place] for place in sorted(final.tolist())])


def scheduler_scores(adapted: AdaptedTasks) -> Tensor:
    """Return loss and gradient similarity of every task, `(T, 2)`."""
    agreement = (task_gradients(adapted, support_loss) * task_gradients(adapted, query_loss)).sum(1)
    return torch.stack([adapted.last_outer_losses(), agreement], dim=-1)


def log_probability(logits: Tensor, order: Tensor) -> Tensor:
    """Return the log-probability of drawing candidates in this order, without replacement.

    `sum_k logit_{i_k} - log sum_{j not drawn before k} exp logit_j`.

    Args:
        logits: `(n,)`.
        order: indices of the drawn candidates, `(k,)`.

    >>> log_probability(torch.zeros(3), torch.tensor([2, 0])).exp().item()  # 1/3 * 1/2
    0.1666666567325592
    """
    gone = torch.zeros(len(order), len(logits), dtype=torch.bool)
    for turn, place in enumerate(order.tolist()[:-1]):
        gone[turn + 1 :, place] = True
    left = logits.expand(len(order), -1).masked_fill(gone, -torch.inf)
    return (logits[order] - left.logsumexp(1)).sum()
