"""Classes that have other slots in every task: what a known task's classes mean in a new one."""

from torch import Tensor

from metalens.learners.classification import one_hot

PRIOR = 1e-6  # examples of every class in every slot, for slots that no example is assigned to


def slot_maps(predictions: Tensor, y: Tensor, n_classes: int) -> Tensor:
    """Return what the slots of known models mean in a task, `(..., c', c)`.

    With the probabilities pi of a known model's slots k for the s support examples of a task,

        A[k, c] = P(y = c | k) = sum_i pi_k(x_i) [y_i = c] / sum_i pi_k(x_i)

    Then `pi(x) @ A` are probabilities of the task's classes, whatever the order of the model's own.

    Args:
        predictions: logits of the models for the support, `(..., s, c')`.
        y: classes, `(s,)`, or with the leading axes of the predictions.
        n_classes: c.

    >>> import torch
    >>> logits = torch.tensor([[2.0, -2.0], [-2.0, 2.0]])  # a model with the two classes the other way round
    >>> slot_maps(logits, torch.tensor([1, 0]), 2)
    tensor([[0.0180, 0.9820],
            [0.9820, 0.0180]])

    Source: the expected empirical predictor of C. Nguyen and others, "LEEP: A New Measure to Evaluate
    Transferability of Learned Representations", ICML 2020, arXiv 2002.12462. Deviation: a slot that no
    example is assigned to says nothing, and all classes are equally probable there.
    """
    probabilities = predictions.softmax(-1)
    counts = probabilities.mT @ one_hot(y, n_classes, predictions.dtype) + PRIOR / n_classes
    return counts / counts.sum(-1, keepdim=True)
