"""Objectives for samplers of tasks, and a sampler that weighs."""

import torch
from mapping import mapped

from metalens import MAML, Choice, Objective, TaskSampler, TRLearner, mlp

T = 4  # tasks of a batch


def objective_of(seed=0, learner=MAML, **settings):
    torch.manual_seed(seed)
    built = learner(mlp(hidden=[8]))
    return mapped(Objective(built, [TRLearner(weight=0.1)]), **settings)


class Weighing(TaskSampler):
    """Weights that grow with the place in the batch, and the first two queries of each task."""

    weighs = True

    def choose(self, objective, tasks, step, meta_batch_size):
        weights = torch.arange(1.0, meta_batch_size + 1)
        queries = torch.tensor([[0, 1]]).expand(meta_batch_size, 2)
        return Choice(range(meta_batch_size), weights / weights.sum(), queries)
