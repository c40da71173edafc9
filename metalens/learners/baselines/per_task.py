"""What the classical baselines share: every task on its own, by scikit-learn, on raw inputs."""

from __future__ import annotations

import copy
from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from metalens.batching import Batching, Plan
from metalens.errors import MetaLensError
from metalens.learners.base import Learner, State
from metalens.learners.classification import LEAST_PROBABILITY, indicator_targets
from metalens.networks import Network


class PerTaskLearner(Learner):
    """A model of scikit-learn, fitted to the support set of each task alone; nothing is learned across tasks.

    The task state is the support set itself, and the model is fitted whenever predictions are asked for. So
    a state stays a tree of tensors, as for every learner. Tasks are looped over. Nothing is descended, `fit`
    takes no step, and no gradient flows through predictions.

    A subclass writes `estimate`. The network only says how many outputs or classes a task has.

    Args:
        network: its number of outputs counts, and where its parameters are; it is copied.
    """

    from_hidden = False
    regularizer_refusal = "it learns nothing across tasks."

    def __init__(self, network: Network) -> None:
        super().__init__(network)

    def set_network(self, network: Network) -> None:
        super().set_network(copy.deepcopy(network).requires_grad_(False))  # the caller's stays trainable

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

    def adapt_encoded(self, z: Tensor, y: Tensor) -> State:
        indicator_targets(y, z, self.network.n_outputs)  # refuses what does not fit the number of outputs
        return {"x": z, "y": y}

    def predict_encoded(self, state: State, z: Tensor) -> Tensor:
        x, new_x = (inputs.detach().flatten(1).cpu().numpy() for inputs in (state["x"], z))
        y = state["y"].detach().cpu().numpy()
        predictions = self.estimate(x, y, new_x, classes=not state["y"].is_floating_point())
        return torch.as_tensor(predictions, dtype=self.dtype, device=self.device)

    def predict_hidden(self, state: State, hidden: Tensor, layer: int) -> Tensor:
        raise MetaLensError(f"{type(self).__name__} works on inputs, and cannot predict from activations.")

    def plan(self, batching: Batching) -> Plan:
        if batching == "vmap":
            raise MetaLensError(
                f"batching='vmap' is not possible: {type(self).__name__} is a model of scikit-learn, fitted "
                "task by task. Use 'auto' or 'loop'."
            )
        super().plan(batching)  # refuses what is no way to batch
        return "loop"

    def log_probabilities(self, probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return logits, `(n, n_outputs)`: logarithms of probabilities, of at least 1e-6 each.

        Args:
            probabilities: of the classes of the support set, `(n, k)`.
            classes: which classes these are, `(k,)`; the others have the probability 0.
        """
        of_all = np.zeros((len(probabilities), self.network.n_outputs))
        of_all[:, classes] = probabilities
        return np.log(of_all.clip(min=LEAST_PROBABILITY))
