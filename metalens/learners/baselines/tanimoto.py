"""The Tanimoto similarity as a kernel of scikit-learn."""

from typing import Any

import numpy as np
from sklearn.gaussian_process.kernels import Kernel


class Tanimoto(Kernel):
    """The share of common bits: `k(u, v) = <u, v> / (||u||^2 + ||v||^2 - <u, v>)`, without settings.

    Two fingerprints without a bit share nothing.

    >>> Tanimoto()(np.array([[1.0, 1.0, 0.0]]), np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]))
    array([[0.5, 1. ]])

    Source: L. Ralaivola and others, "Graph Kernels for Chemical Informatics", Neural Networks 18, 2005.
    """

    def __init__(self) -> None:  # scikit-learn reads the signature
        pass

    def __call__(self, X: np.ndarray, Y: np.ndarray | None = None, eval_gradient: bool = False) -> Any:  # noqa: N803
        other = X if Y is None else Y
        products = X @ other.T
        unions = (X**2).sum(1)[:, None] + (other**2).sum(1) - products
        similarity = products / np.maximum(unions, np.finfo(float).tiny)
        return (similarity, np.empty((*similarity.shape, 0))) if eval_gradient else similarity

    def diag(self, X: np.ndarray) -> Any:  # noqa: N803
        return X.any(1).astype(float)

    def is_stationary(self) -> Any:
        return False
