"""How an outer step is taken: losses, gradient, and update."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from metalens.errors import MetaLensError
from metalens.execution.clipping import clip_gradients
from metalens.execution.whole_step import WholeStep
from metalens.tasks import Task
from metalens.training.optimizer import Descent
from metalens.training.settings import TrainingSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Tensors = dict[str, Tensor]


def is_scaled(fabric: Fabric) -> bool:
    """Return whether gradients are scaled, and steps skipped that are not finite: in 16-mixed."""
    return fabric.strategy.precision.precision == "16-mixed"


def steps_of(
    settings: TrainingSettings, module: nn.Module, descent: Descent, n_runs: int, fabric: Fabric
) -> Steps:
    """Return how the outer steps of a module are taken."""
    if isinstance(module, WholeStep):
        return WholeSteps(settings, module, descent, n_runs, fabric)
    return Steps(settings, module, descent, n_runs, fabric)


class Steps:
    """Outer steps in three parts: losses, their gradient, and the change of the weights.

    Args:
        settings: of the training.
        module: `tasks -> loss terms`.
        descent: optimizer and schedule.
        n_runs: number of objectives side by side.
        fabric: device, precision and strategy.

    Raises:
        MetaLensError: the optimizer is fused, and gradients are scaled.
    """

    def __init__(
        self, settings: TrainingSettings, module: nn.Module, descent: Descent, n_runs: int, fabric: Fabric
    ) -> None:
        if is_scaled(fabric) and any(group.get("fused") for group in descent.optimizer.param_groups):
            raise MetaLensError("A fused optimizer unscales gradients too late in 16-mixed; set fused=False.")
        self.settings, self.fabric, self.descent = settings, fabric, descent
        self.module, self.optimizer = fabric.setup(module, descent.optimizer)
        self.module.train()
        self.renew(n_runs)

    def renew(self, n_runs: int) -> None:
        """Take the parameters that the module has now, of a number of objectives side by side."""
        self.n_runs, self._weights = n_runs, list(self.module.parameters())

    def losses(self, tasks: Task, *weights: Tensor) -> Tensors:
        """Return the loss terms of tasks, on the device, with their weights if they have any."""
        terms = self.module(tasks, *weights)
        if not any(term.requires_grad for term in terms.values()):
            raise MetaLensError(
                "The outer loss has no gradient; leave detach, item and NumPy out of the loss and learner."
            )
        return terms

    def norms(self, loss: Tensor, number: int) -> list[float]:
        """Compute and clip the gradient; return the norms before, if waiting for them is cheap."""
        self.fabric.backward(loss)
        settings, scaled = self.settings, is_scaled(self.fabric)
        if settings.clip_norm is not None:
            self.fabric.strategy.precision.unscale_gradients(self.descent.optimizer)
        is_quick = self.fabric.device.type == "cpu" or settings.on_nonfinite != "raise"
        waits = not scaled and (is_quick or number == settings.steps)
        if settings.clip_norm is None and not waits:
            return []
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        zero = settings.on_nonfinite == "clip" and not scaled
        norms = clip_gradients(gradients, self.n_runs, settings.clip_norm, zero_nonfinite=zero)
        return norms.tolist() if waits else []

    def update(self, *, is_skipped: bool) -> None:
        """Change the weights, unless the step is skipped, and the step size."""
        if is_skipped:
            self.optimizer.zero_grad()  # without a gradient the optimizer does nothing
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.descent.scheduler.step()


class WholeSteps(Steps):
    """Steps whose three parts are one program: `losses` changes the weights, unless a value is not finite."""

    def __init__(
        self, settings: TrainingSettings, module: WholeStep, descent: Descent, n_runs: int, fabric: Fabric
    ) -> None:
        super().__init__(settings, module, descent, n_runs, fabric)
        self.optimizer.step()  # does nothing, but the scheduler warns if it comes first
        self._step = module

    def losses(self, tasks: Task, *weights: Tensor) -> Tensors:
        return self.module(tasks, *weights)

    def norms(self, loss: Tensor, number: int) -> list[float]:
        return self._step.norms.tolist()

    def update(self, *, is_skipped: bool) -> None:
        self.descent.scheduler.step()
