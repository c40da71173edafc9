"""Gaussian processes on raw inputs, task by task."""

import warnings
from typing import Literal, get_args

import numpy as np

from metalens.errors import MetaLensError
from metalens.learners.baselines.base import Baseline

PlainKernel = Literal["auto", "tanimoto", "rbf"]


class GaussianProcess(Baseline):
    """The classical baseline for few examples: a Gaussian process on the raw inputs of each task alone.

    `k(x, x') = a h(x, x') + s^2 [x = x']` around the mean of the targets, where h is the Tanimoto similarity
    `<x, x'> / (||x||^2 + ||x'||^2 - <x, x'>)` or `exp(-||x - x'||^2 / (2 l^2))`. Amplitude a, noise s^2 and
    length l maximize the likelihood of the support set, in units of the deviation of its targets; the search
    starts at 1, 1 and the root of the number of inputs. For classes, the targets are columns of ones and
    zeros, and the predictions are logits. A single support example is predicted for all.

    Args:
        n_outputs: number of targets, or of classes of a task.
        kernel: h: `"tanimoto"` for fingerprints, `"rbf"`, or `"auto"`: the former if all inputs of the
            support are 0 or 1.

    Raises:
        MetaLensError: there is no such kernel.

    >>> from metalens import GaussianProcess, Sinusoid
    >>> task = Sinusoid("test")[0]
    >>> GaussianProcess(n_outputs=1)(task.support)(task.query.x).shape
    torch.Size([15, 1])

    Source: C. Rasmussen, C. Williams, "Gaussian Processes for Machine Learning", 2006; scikit-learn computes
    it.
    """

    def __init__(self, n_outputs: int, *, kernel: PlainKernel = "auto") -> None:
        super().__init__(n_outputs)
        if kernel not in get_args(PlainKernel):
            raise MetaLensError(f"GaussianProcess: kernel must be auto, tanimoto or rbf, got {kernel!r}.")
        self.kernel: PlainKernel = kernel

    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        from metalens.learners.baselines.tanimoto import Tanimoto

        x, new_x = x.astype(float), new_x.astype(float)
        targets = np.eye(self.n_outputs)[y] if classes else y
        if len(x) == 1:  # which has no deviation
            return np.repeat(targets, len(new_x), axis=0)
        is_binary = bool(((x == 0) | (x == 1)).all())
        is_tanimoto = self.kernel == "tanimoto" or (self.kernel == "auto" and is_binary)
        kernel = Tanimoto() if is_tanimoto else RBF(x.shape[1] ** 0.5)
        model = GaussianProcessRegressor(ConstantKernel() * kernel + WhiteKernel(), normalize_y=True)
        with warnings.catch_warnings():  # with few examples the noise often reaches a bound
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, targets)
        return np.asarray(model.predict(new_x)).reshape(len(new_x), -1)
