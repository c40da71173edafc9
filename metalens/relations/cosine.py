"""Cosine similarity of task vectors, with or without learned weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalens.adapted_tasks import AdaptedTasks
from metalens.errors import MetaLensError, check_choice, check_counts, check_positive
from metalens.learners import NetworkLearner
from metalens.relations.base import Relation
from metalens.relations.vectors import TaskVector, task_vectors, vector_length


class Cosine(Relation):
    """The mean cosine of the vectors of two tasks under K learned weightings.

    With task vectors v and weights `omega_k`,

        m_ij = (1/K) sum_k cos(omega_k * v_i, omega_k * v_j)

    or, with a temperature tau, `exp((m_ij - 1) / tau)` of it. A zero vector has cosine 0 with all, itself
    included.

    Args:
        heads: K.
        vector: v. `"features"`: mean of the support features (ignores targets); `"labeled"`: mean features
            per class, or feature-by-target products in regression; `"adaptation"`: the displacement of the
            adapted parameters.
        learned: whether omega is learned; otherwise it is 1.
        center: subtract the batch mean from the task vectors.
        temperature: tau, which spreads cosines near 1.

    Raises:
        MetaLensError: a setting is out of range; the learner has no such task vector.

    >>> from metalens import MAML, AdaptedTasks, Sinusoid, mlp
    >>> learner, relation = MAML(mlp()), Cosine(heads=2)
    >>> relation.bind(learner)
    >>> relation(AdaptedTasks(learner, Sinusoid().batch(range(4)))).shape
    torch.Size([4, 4])

    Source: see `TRLearner`. Not specified there: K = 4; omega starts at 1 plus noise of standard deviation
    0.1, so that heads differ. All vectors except `"features"` are ours.
    """

    def __init__(
        self,
        *,
        heads: int = 4,
        vector: TaskVector = "features",
        learned: bool = True,
        center: bool = False,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        check_counts(self, heads=heads)
        check_choice(self, "vector", vector, TaskVector)
        check_positive(self, temperature=temperature)
        self.heads, self.learned, self.center, self.temperature = heads, learned, center, temperature
        self.vector: TaskVector = vector
        self.title = f"{'learned relations' if learned else 'plain cosine'} of {vector}"
        self.omega: nn.Parameter | None = None

    def bind(self, learner: NetworkLearner) -> None:
        length = vector_length(learner, self.vector)
        if not self.learned:
            return
        if self.omega is None:
            omega = 1.0 + 0.1 * torch.randn(self.heads, length)
            self.omega = nn.Parameter(omega.to(learner.device, learner.dtype))
        elif self.omega.shape[1] != length:
            raise MetaLensError(
                f"Cosine: omega is for task vectors of length {self.omega.shape[1]}, but those "
                f"({self.vector}) of this {type(learner).__name__} have length {length}; make a new Cosine."
            )

    def forward(self, adapted: AdaptedTasks) -> Tensor:
        vectors = task_vectors(adapted, self.vector)
        if self.center:
            vectors = vectors - vectors.mean(0)
        heads = F.normalize(self._weighted(vectors), dim=-1)
        matrix = (adapted.own(heads, dim=1) @ heads.mT).mean(0)
        if self.temperature is not None:
            matrix = torch.exp((matrix - 1) / self.temperature)
        return matrix

    def _weighted(self, vectors: Tensor) -> Tensor:
        """Return the vectors of every head, `(K, T, slots * d)`; one head if none is learned."""
        if not self.learned:
            return vectors.flatten(1).unsqueeze(0)
        if self.omega is None:
            raise MetaLensError("Cosine has no omega yet; give it to an Objective, or call bind(learner).")
        if vectors.shape[-1] != self.omega.shape[1]:
            raise MetaLensError(
                f"Cosine: omega is for task vectors of length {self.omega.shape[1]}, but they have length "
                f"{vectors.shape[-1]}, as another regularizer has changed the network; put that one first."
            )
        return (self.omega[:, None, None] * vectors).flatten(2)

    def diagnostics(self) -> dict[str, Tensor]:
        return {} if self.omega is None else {"omega": (self.omega - 1).abs().mean()}
