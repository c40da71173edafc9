"""Scores of the predictions for a task."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

LEAST_CHANCE = 1e-6  # of a class: no prediction is infinitely wrong


def of_numbers(predicted: np.ndarray, truth: np.ndarray, known: np.ndarray) -> dict[str, float]:
    """Return the skill, and the mean squared error.

    The skill is `max(1 - mse / variance, -1)`, with the variance of all targets of the task, of known rows
    too; 0 of a task whose targets are all equal.
    """
    mse = float(np.mean((predicted - truth) ** 2))
    variance = float(np.var(np.concatenate([known, truth])))
    return {"skill": max(1 - mse / variance, -1.0) if variance > 0 else 0.0, "mse": mse}


def of_chances(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the log loss in nats, the accuracy, and the area under the ROC curve (nan with one class)."""
    chance = np.clip(predicted, LEAST_CHANCE, 1 - LEAST_CHANCE)
    both = 0 < truth.mean() < 1
    return {
        "log_loss": float(log_loss(truth, chance, labels=[0, 1])),
        "accuracy": float(np.mean((chance > 0.5) == (truth == 1))),
        "roc_auc": float(roc_auc_score(truth, chance)) if both else float("nan"),
    }


def of_limits(limits: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the share of targets within their limits, and the mean width of the intervals."""
    low, high = limits.T
    return {"inside": float(((low <= truth) & (truth <= high)).mean()), "width": float((high - low).mean())}
