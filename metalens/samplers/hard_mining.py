"""Online mining of hard tasks."""

from metalens.data import TaskDistribution
from metalens.objective import Objective
from metalens.samplers.base import CandidateSampler, Choice, adapted_candidates


class HardMining(CandidateSampler):
    """Choose the hardest candidates: those with the largest outer loss under the current weights.

        batch = the T candidates i with the largest L(query_i; F(support_i))

    It costs one more adaptation and prediction per candidate, without a gradient.

    Args:
        oversampling: candidates per task of the batch.

    Raises:
        MetaLensError: see `CandidateSampler`.

    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> choice = HardMining().choose(Objective(MAML(mlp())), Sinusoid(), step=0, meta_batch_size=4)
    >>> len(choice.numbers), max(choice.numbers) < 16
    (4, True)

    Source: A. Shrivastava and others, "Training Region-based Object Detectors with Online Hard Example
    Mining", CVPR 2016, arXiv 1604.03540, for examples; for tasks R. Kumar and others, "The Effect of
    Diversity in Meta-Learning", AAAI 2023, arXiv 2201.11775. Deviation from the latter: the losses are those
    of new candidates under the current weights, not of the tasks seen last.
    """

    asks_model = True

    def choose(
        self, objective: Objective, tasks: TaskDistribution, step: int, meta_batch_size: int
    ) -> Choice:
        numbers = self.candidates(tasks, step, meta_batch_size)
        with adapted_candidates(objective, tasks, numbers) as adapted:
            hardest = adapted.last_outer_losses().topk(meta_batch_size).indices
        return Choice([numbers[place] for place in sorted(hardest.tolist())])
