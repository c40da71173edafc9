"""Every method takes the same step from a recording, beside a model of another seed, and on any device."""

import pytest
import torch
from combinations import COMPILED, MEANINGFUL, REPLICATED, SOLVERS
from small_networks import randomize

from metalens import ReplicationError, stack_tasks
from metalens.adapted_tasks import AdaptedTasks
from metalens.execution.compiling import CompiledObjective
from metalens.execution.replicas import Replicas
from metalens.tasks import place
from metalens.testing.objectives import same_draws_in_every_plan


def step(case, objective):
    loss = case.loss(objective)
    weights = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
    return loss, [gradient.detach() for gradient in gradients]


# Recording takes a second or more; these go through every kind of learner, and through all pairs of tasks.
FAST = ("MAML-none", "ANIL-none", "ProtoNet-none", "R2D2-none", "MAML-TRLearner")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=str(case),
            marks=[] if f"{case.learner}-{case.regularizer}" in FAST else [pytest.mark.slow],
        )
        for case in COMPILED
    ],
)
def test_recorded_step_equals_plain_step(case):
    with same_draws_in_every_plan():
        loss, gradients = step(case, case.objective("vmap"))
        value, slopes = step(case, CompiledObjective(case.objective("vmap"), backend=None))
    torch.testing.assert_close(value, loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slopes, gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", REPLICATED, ids=str)
def test_replicas_equal_each_objective_alone(case):
    objectives = [case.objective(), randomize(case.objective())]
    tasks = stack_tasks([case.tasks, case.tasks])
    replicas = Replicas(objectives)
    if case.entry.random or case.regularizer_entry.random:
        with pytest.raises(ReplicationError, match="Side by side"):
            replicas.check(tasks)
    else:
        replicas.check(tasks, tolerance=1e-9)


ON_META = [
    pytest.param(
        case,
        id=str(case),
        marks=[] if case.network == "mlp" and case.learner not in SOLVERS else pytest.mark.full,
    )
    for case in MEANINGFUL
    if case.entry.trains
    and (case.regularizer == "none" or (case.learner == "MAML" and case.network == "mlp"))
]


@pytest.mark.parametrize("case", ON_META)
def test_a_step_makes_no_tensor_elsewhere_and_waits_for_no_value(case):
    """On PyTorch's `meta` device there are no values; a GPU would have to be waited for."""
    objective = case.objective().to("meta")
    tasks = place(case.tasks, torch.device("meta"), torch.float64)
    terms = torch.stack(list(objective(tasks).values()))
    weights = [weight for weight in objective.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(terms.sum(), weights, materialize_grads=True)
    with torch.no_grad():
        predictions = AdaptedTasks(objective.learner.eval(), tasks, "auto").query_predictions
    assert {tensor.device.type for tensor in (terms, *gradients, predictions)} == {"meta"}
