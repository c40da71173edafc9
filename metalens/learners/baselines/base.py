"""The base of the classical baselines: a model of each task alone, on raw inputs, by scikit-learn."""

from abc import abstractmethod
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from metalens.errors import MetaLensError
from metalens.learners.base import Learner, State
from metalens.learners.classification import MIN_PROBABILITY, class_indicators, indicator_targets


class Baseline(Learner):
    """A classical model, fitted to the support set of each task alone; nothing is learned across tasks.

    The task state is the support set itself, a tree of tensors as for every learner; the model is fitted for
    every prediction, to the rows sorted by their values, so that their order does not matter. Tasks are
    looped over, `fit` takes no step, and no gradient flows through predictions. A subclass defines
    `estimate`.

    Args:
        n_outputs: number c of targets, or of classes of a task.

    Attributes:
        only_classes: it is a classifier, and refuses real targets.

    Raises:
        MetaLensError: there is less than one output.
    """

    only_classes: bool = False
    export_refusal = "it is a model of scikit-learn or NumPy, which predicts outside of PyTorch."
    regularizer_refusal = "it learns nothing across tasks."

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        name, is_whole = type(self).__name__, isinstance(n_outputs, Integral)
        if not is_whole or n_outputs < 1:
            got = n_outputs if is_whole else type(n_outputs).__name__
            raise MetaLensError(f"{name}: n_outputs must be a whole number of at least 1, got {got}.")
        self.n_outputs = int(n_outputs)
        self.register_buffer("_place", torch.empty(0), persistent=False)  # has the device and the precision

    @abstractmethod
    def estimate(self, x: np.ndarray, y: np.ndarray, new_x: np.ndarray, *, classes: bool) -> np.ndarray:
        """Fit to examples, and return predictions for new inputs.

        Args:
            x: support inputs, `(s, d)` numbers.
            y: their targets: real `(s, c)`, or class indices `(s,)`.
            new_x: inputs to predict for, `(n, d)`.
            classes: whether targets are class indices.

        Returns:
            Predicted targets or logits, `(n, c)`.
        """

    @property
    def vmap_refusal(self) -> str:
        return f"{type(self).__name__} is a model of scikit-learn, fitted task by task."

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        if self.only_classes:
            class_indicators(type(self).__name__, y, z, self.n_outputs)
        indicator_targets(y, z, self.n_outputs)  # refuses targets that do not fit the number of outputs
        return {"x": z, "y": y}

    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        x, new_x = (inputs.detach().flatten(1).cpu().numpy() for inputs in (state["x"], z))
        y = state["y"].detach().cpu().numpy()
        # Trees draw rows by their places, and of neighbors at equal distances the first ones count.
        order = np.lexsort([*np.atleast_2d(y.T), *x.T])
        predictions = self.estimate(x[order], y[order], new_x, classes=not state["y"].is_floating_point())
        return torch.as_tensor(predictions, dtype=self.dtype, device=self.device)

    def log_probabilities(self, probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return logits, `(n, n_outputs)`: logarithms of probabilities, of at least 1e-6 each.

        Args:
            probabilities: of the classes of the support set, `(n, k)`.
            classes: which classes these are, `(k,)`; the others have the probability 0.
        """
        of_all = np.zeros((len(probabilities), self.n_outputs))
        of_all[:, classes] = probabilities
        return np.log(of_all.clip(min=MIN_PROBABILITY))
