"""Diverse batches by a determinantal point process."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import pdist, squareform

from metalens.data import TaskDistribution
from metalens.errors import MetaLensError
from metalens.objective import Objective
from metalens.samplers.base import CandidateSampler, Choice, adapted_candidates, descriptors_of
from paper.samplers.gradients import support_loss, task_gradients
from paper.samplers.held_out import generator_of

TaskVectors = Literal["gradients", "features", "descriptors"]

_RIDGE = 1e-6  # gives the kernel full rank where tasks are alike


class DPP(CandidateSampler):
    """Batches of tasks that differ, drawn by a k-DPP over task vectors.

    A batch B of T candidates has the probability

        P(B) = det(K_B) / sum_{|B'| = T} det(K_B'),   K_ij = exp(-|v_i - v_j|^2 / (2 m^2))

    where m is the median distance of the candidates' vectors v.

    Args:
        vectors: v: `"gradients"`, the gradient of the support loss before adaptation, which depends on inputs
            and targets; `"features"`, the mean of the support features, which ignores targets; or
            `"descriptors"`, those of the distribution.
        oversampling: candidates per task of the batch.

    Raises:
        MetaLensError: there are no such vectors, the tasks have no descriptors, or DPPy is not installed. See
            also `CandidateSampler`.

    >>> from metalens import MAML, Objective, Sinusoid, mlp
    >>> choice = DPP().choose(Objective(MAML(mlp())), Sinusoid(), step=0, meta_batch_size=4)
    >>> len(set(choice.numbers))
    4

    Source: A. Kulesza and B. Taskar, "k-DPPs: Fixed-Size Determinantal Point Processes", ICML 2011; for
    tasks R. Kumar and others, "The Effect of Diversity in Meta-Learning", AAAI 2023, arXiv 2201.11775; drawn
    by DPPy. Deviations: whole tasks are drawn, not the classes of a task; the kernel and its vectors.
    """

    def __init__(self, *, vectors: TaskVectors = "gradients", oversampling: int = 4) -> None:
        super().__init__(oversampling=oversampling)
        if vectors not in get_args(TaskVectors):
            raise MetaLensError(
                f"DPP: vectors must be one of {', '.join(get_args(TaskVectors))}, got {vectors!r}."
            )
        self.vectors: TaskVectors = vectors
        self.asks_model = vectors != "descriptors"

    def check(self, objective: Objective, tasks: TaskDistribution, meta_batch_size: int) -> None:
        super().check(objective, tasks, meta_batch_size)
        try:
            import dppy.finite_dpps  # noqa: F401
        except ImportError as error:
            raise MetaLensError("DPP draws by DPPy, which is not installed; run pip install dppy.") from error
        if self.vectors == "descriptors":
            descriptors_of(tasks, range(1))

    def choose(
        self, objective: Objective, tasks: TaskDistribution, step: int, meta_batch_size: int
    ) -> Choice:
        numbers = self.candidates(tasks, step, meta_batch_size)
        if self.vectors == "descriptors":
            vectors = descriptors_of(tasks, numbers)
        else:
            with adapted_candidates(objective, tasks, numbers) as adapted:
                if self.vectors == "gradients":
                    vectors = task_gradients(adapted, support_loss)
                else:
                    vectors = adapted.support_features.mean(1)
        kernel = kernel_of(vectors.double().cpu().numpy())
        places = drawn_diverse(kernel, meta_batch_size, generator_of(tasks, step))
        return Choice([numbers[place] for place in sorted(places)])


def kernel_of(vectors: np.ndarray) -> np.ndarray:
    """Return the kernel `(n, n)` of vectors `(n, d)`."""
    distances = pdist(vectors)
    scale = np.median(distances) or distances.mean() or 1.0
    return np.exp(-(squareform(distances) ** 2) / (2 * scale**2))


def drawn_diverse(kernel: np.ndarray, k: int, rng: np.random.Generator) -> list[int]:
    """Return k of n places, drawn with probability proportional to the determinant of their kernel."""
    from dppy.finite_dpps import FiniteDPP  # takes most of a second to import

    full = kernel + _RIDGE * np.eye(len(kernel))
    process = FiniteDPP("likelihood", L=_scale(full, k) * full)
    seed = int(rng.integers(2**32))
    return [int(place) for place in process.sample_exact_k_dpp(size=k, random_state=seed)]


def _scale(kernel: np.ndarray, k: int) -> float:
    """Return a factor that changes no probability, and keeps the sums of determinants within range.

    Of the sizes j up to k, the sum is about the product of the j largest eigenvalues: without a factor it is 0
    for many tasks that are alike.
    """
    largest = np.linalg.eigvalsh(kernel)[::-1][:k].clip(min=_RIDGE / 2)
    logarithms, sizes = np.cumsum(np.log(largest)), np.arange(1, k + 1)
    bounds = -np.log(largest[0]), -np.log(largest[-1])

    def largest_exponent(log_factor: float) -> float:
        return np.abs(logarithms + sizes * log_factor).max()

    return float(np.exp(minimize_scalar(largest_exponent, bounds=bounds, method="bounded").x))
