"""The exponential moving average of the weights of a training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from metalens.errors import MetaLensError
from metalens.objective import Objective, trained_parameters
from metalens.training.checkpoint import State


class WeightAverage:
    """The average `a` of the trained weights `w`: after the first step w, then `a <- d a + (1 - d) w`.

    Args:
        objective: in training, on its device.
        decay: d.

    Raises:
        MetaLensError: the weights are of half precision, in which the average would stand still.

    >>> from metalens import MAML, mlp
    >>> objective = Objective(MAML(mlp()))
    >>> average, weight = WeightAverage(objective, 0.75), next(objective.parameters())
    >>> with torch.no_grad():
    ...     for value in (1.0, 5.0):
    ...         _ = weight.fill_(value)
    ...         average.update()
    >>> with average.applied():
    ...     print(weight[0].item())
    2.0
    >>> weight[0].item()
    5.0
    """

    def __init__(self, objective: Objective, decay: float) -> None:
        self._weights = nn.ParameterList(trained_parameters(objective))
        for weight in self._weights:
            if torch.finfo(weight.dtype).bits < 32:
                raise MetaLensError(
                    f"ema is not possible in {weight.dtype}, which would round its small changes away; use "
                    "precision='bf16-mixed' or '32-true'."
                )
        self._average = AveragedModel(self._weights, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def update(self) -> None:
        """Take the present weights into the average."""
        self._average.update_parameters(self._weights)

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the weights by their average, if there was a step."""
        if self._average.n_averaged > 0:
            for weight, mean in zip(self._weights, self._average.parameters(), strict=True):
                weight.copy_(mean)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the weights by their average within the block."""
        before = [weight.detach().clone() for weight in self._weights]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, kept in zip(self._weights, before, strict=True):
                    weight.copy_(kept)

    def state(self) -> State:
        """Return the average and the number of steps in it."""
        return self._average.state_dict()

    def load(self, state: State) -> None:
        """Restore what `state` returned."""
        self._average.load_state_dict(state)
