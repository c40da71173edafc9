"""Models of a single task, fitted to its known rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Kernel, WhiteKernel
from sklearn.linear_model import LogisticRegression, RidgeCV

from tools.tables.design import Design
from tools.tables.family import Fitted, NotApplicableError, Predict
from tools.tables.protocol import Episode, Fold, targets

Model = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # from x, y and new x to predictions


def of_one_task(fold: Fold) -> Iterator[Fitted]:
    """Yield the mean, a linear model and a Gaussian process; inputs are standardized by the training tasks.

    Without known rows, the mean is that of the training rows, and the others do not predict.
    """
    population = float(fold.y.mean())
    numbers = fold.problem.kind == "number"
    share = 0.0 if numbers else 1.0  # the rows that the population counts as

    def mean(episodes: Sequence[Episode]) -> list[np.ndarray]:
        found = []
        for episode in episodes:
            y = targets(fold.problem, episode.support, fold.classes)
            total, n = y.sum() + share * population, len(y) + share
            found.append(np.full(len(episode.query), total / n if n else population))
        return found

    yield Fitted("task mean" if numbers else "task share", mean)
    design = Design(fold)
    yield Fitted(
        "task ridge" if numbers else "task logistic", _each(fold, design, ridge if numbers else logistic)
    )
    process = gaussian_process if numbers else gaussian_classifier
    kernel = (
        Tanimoto() if design.molecules else RBF(np.sqrt(len(design.matrix(fold.train[:1])[0])), (0.1, 1e3))
    )
    yield Fitted("task GP", _each(fold, design, lambda x, y, new: process(kernel, x, y, new)))


def ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return predictions of a ridge regression, its penalty by leaving one row out."""
    return RidgeCV(alphas=np.logspace(-2, 4, 13)).fit(x, y).predict(new)


def logistic(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return chances by a logistic regression with its usual penalty."""
    return LogisticRegression(max_iter=1000).fit(x, y).predict_proba(new)[:, 1]


def gaussian_process(kernel: Kernel, x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return predictions of a Gaussian process, its kernel by the likelihood of the known rows."""
    whole = ConstantKernel(1.0, (1e-2, 1e2)) * kernel + WhiteKernel(0.1, (1e-3, 10.0))
    model = GaussianProcessRegressor(whole, normalize_y=True, random_state=0)
    return model.fit(x, y).predict(new)


def gaussian_classifier(kernel: Kernel, x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return chances by a Gaussian process with a logistic link."""
    whole = ConstantKernel(1.0, (1e-2, 1e2)) * kernel
    return GaussianProcessClassifier(whole, random_state=0).fit(x, y).predict_proba(new)[:, 1]


class Tanimoto(Kernel):
    """The similarity of fingerprints: the bits that both have, divided by those that either has."""

    def __init__(self):
        pass  # scikit-learn asks for a signature

    def __call__(self, X, Y=None, eval_gradient=False):  # noqa: N803
        """Return the similarities of all pairs; there are no parameters to take gradients for."""
        found = tanimoto(X, X if Y is None else Y)
        return (found, np.empty((*found.shape, 0))) if eval_gradient else found

    def diag(self, X):  # noqa: N803
        """Return the similarities of molecules to themselves."""
        return np.ones(len(X))

    def is_stationary(self):
        """Return whether it depends on differences only."""
        return False


def tanimoto(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the similarities of all pairs of fingerprints."""
    both = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1)[None] - both
    return both / np.maximum(either, 1)


def _each(fold: Fold, design: Design, model: Model) -> Predict:
    """Return the predictions of a model of every task by itself."""

    def predict(episodes):
        found = []
        for episode in episodes:
            if not len(episode.support):
                raise NotApplicableError("needs known rows")
            y = targets(fold.problem, episode.support, fold.classes)
            if fold.problem.kind == "class" and len(set(y)) < 2:  # a model of two classes has no answer
                found.append(np.full(len(episode.query), (y.sum() + fold.y.mean()) / (len(y) + 1)))
                continue
            x = design.matrix(episode.support), design.matrix(episode.query)
            found.append(model(x[0], y, x[1]))
        return found

    return predict
