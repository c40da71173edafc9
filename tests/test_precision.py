"""Training in other precisions: less precise where asked for, never wrong."""

import pytest
import torch
from lightning_fabric import Fabric
from mapping import mapped

from metalens import (
    ANIL,
    MAML,
    R2D2,
    Examples,
    Machine,
    MetaLensError,
    Objective,
    Sinusoid,
    Task,
    TaskDistribution,
    Validation,
    conv4,
    fit,
    mlp,
)
from metalens.execution.precision import in_precision


def machine(precision: str, **settings) -> Machine:
    return Machine(accelerator="cpu", precision=precision, **settings)


def curves(precision: str, **settings) -> list[float]:
    torch.manual_seed(0)
    objective = Objective(MAML(mlp(hidden=[8])))
    tasks = Sinusoid()
    validation = Validation(tasks, n_tasks=10, every=4)
    how = machine(precision, **settings)
    curve = fit(objective, tasks, steps=4, meta_batch_size=4, validation=validation, machine=how)
    assert objective.learner.dtype == torch.float32
    return curve["value"].tolist()


@pytest.mark.parametrize(
    ("precision", "error"), [("64-true", 1e-5), ("bf16-mixed", 2e-2), ("bf16-true", 2e-2)]
)
def test_training_is_that_of_single_precision_up_to_rounding(precision, error):
    exact, rough = curves("32-true"), curves(precision)
    assert exact != rough
    assert rough == pytest.approx(exact, rel=error)


def test_what_chunks_compute_anew_is_of_mixed_precision_too():
    assert curves("bf16-mixed", chunk=2) == pytest.approx(curves("bf16-mixed"), rel=1e-2)


class Images(TaskDistribution):
    """Small random images of two classes."""

    def __getitem__(self, index):
        noise = torch.Generator().manual_seed(index)
        x, y = torch.randn(4, 1, 16, 16, generator=noise), torch.tensor([0, 1, 0, 1])
        return Task(Examples(x, y), Examples(x.flip(0), y.flip(0)))


@pytest.mark.parametrize(
    ("learner", "precision", "batching", "words"),
    [
        (MAML, "bf16-mixed", "vmap", "is not possible for this objective.*batching='loop'"),
        (R2D2, "bf16-true", "loop", "is not possible for this objective"),
        (ANIL, "16-true", "loop", "precision='16-true' cannot be used"),
    ],
)
def test_what_cannot_be_differentiated_is_refused_before_training(learner, precision, batching, words):
    objective = mapped(Objective(learner(conv4(2, n_filters=4, image_size=16))), batching)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    with pytest.raises(MetaLensError, match=words), in_precision(fabric, objective, Images(), 4):
        pass
    assert objective.learner.dtype == torch.float32


def test_a_gradient_that_is_all_error_is_refused():
    network = mlp(hidden=[8])
    objective = Objective(MAML(network, inner_lr=1e3, inner_steps=8))
    with (
        pytest.raises(MetaLensError, match="the error of its gradient is"),
        in_precision(machine("bf16-true").fabric(), objective, Sinusoid(), 4),
    ):
        pass
