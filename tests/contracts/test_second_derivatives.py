"""The meta-gradient can be differentiated again, however the outer step is executed, or is refused."""

import functools

import pytest
import torch
from combinations import Case
from small_networks import randomize

from metalens import MAML, Examples, MetaLensError, Objective, Task, mlp
from metalens.networks.functional import functional_call
from metalens.objective import trained_parameters

WAYS = [("loop", None), ("vmap", None), ("loop", 3), ("vmap", 3)]
METHODS = [
    *(("MAML", regularizer, "mlp") for regularizer in ("none", "TAML", "TRLearner", "MRMAML")),
    *((learner, "none", "mlp") for learner in ("MetaSGD", "ANIL", "ProtoNet")),
    ("R2D2", "TRLearner", "mlp"),
    # Normalization in the inner loop is differentiated three times.
    *(("MAML", "none", network) for network in ("conv-norm", "attention", "stock-instance-norm")),
]
FAST = METHODS[:2]
STEP = 1e-4  # of finite differences
EXECUTIONS = [
    pytest.param(*method, *way, mode, marks=[] if method in FAST or way == WAYS[0] else [pytest.mark.full])
    for method in METHODS
    for way in WAYS
    for mode in ("reverse", "mixed")
    if mode == "reverse" or method[0] not in ("ProtoNet", "R2D2")
]
# Of the fast ones every way of the first method, and of others the first: three levels take a second each.
THREE_LEVELS = [
    execution
    if execution.marks or execution.values[:3] == METHODS[0] or execution.values[3:] == (*WAYS[0], "reverse")
    else pytest.param(*execution.values, marks=pytest.mark.full)
    for execution in EXECUTIONS
]


def prepared(learner, regularizer, network, batching="vmap", chunk=None, mode="reverse"):
    case = Case(learner, regularizer, network, "classification")
    objective = case.objective(batching)
    objective.chunk, objective.learner.differentiation = chunk, mode
    return case, objective


def slopes(case, objective, **how):
    return torch.autograd.grad(
        case.loss(objective), trained_parameters(objective), materialize_grads=True, **how
    )


def directions(objective):
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in trained_parameters(objective)]


def moved(objective, size):
    with torch.no_grad():
        for p, d in zip(trained_parameters(objective), directions(objective), strict=True):
            p.add_(size * d)


@functools.cache
def differences(learner, regularizer, network):
    """The change of the gradient in a direction, by the five-point rule."""
    found, case, objective = {}, *prepared(learner, regularizer, network)
    for position in (-2, -1, 1, 2):
        moved(objective, position * STEP)
        found[position] = torch.cat([s.flatten() for s in slopes(case, objective)])
        moved(objective, -position * STEP)
    return (8 * (found[1] - found[-1]) - (found[2] - found[-2])) / (12 * STEP)


@pytest.mark.parametrize(("learner", "regularizer", "network", "batching", "chunk", "mode"), EXECUTIONS)
def test_hessian_vector_product_equals_finite_differences(
    learner, regularizer, network, batching, chunk, mode
):
    case, objective = prepared(learner, regularizer, network, batching, chunk, mode)
    first = slopes(case, objective, create_graph=True)
    inner = torch.stack([(g * d).sum() for g, d in zip(first, directions(objective), strict=True)]).sum()
    products = torch.autograd.grad(inner, trained_parameters(objective), materialize_grads=True)
    found, expected = torch.cat([p.flatten() for p in products]), differences(learner, regularizer, network)
    assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize(("learner", "regularizer", "network", "batching", "chunk", "mode"), THREE_LEVELS)
def test_three_levels_equal_finite_differences(learner, regularizer, network, batching, chunk, mode):
    """The loss after two outer steps, by their step size."""
    case, objective = prepared(learner, regularizer, network, batching, chunk, mode)
    weights = {name: p for name, p in objective.named_parameters() if p.requires_grad}

    def loss(new):
        torch.manual_seed(3)
        return torch.stack(list(functional_call(objective, new, (case.tasks,)).values())).sum()

    def after_two_steps(outer_lr):
        new = weights
        for _ in range(2):
            slope = torch.autograd.grad(
                loss(new), list(new.values()), create_graph=True, materialize_grads=True
            )
            new = {name: w - outer_lr * s for (name, w), s in zip(new.items(), slope, strict=True)}
        return loss(new)

    outer_lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(after_two_steps(outer_lr), outer_lr)
    at = {n: after_two_steps(outer_lr.detach() + n * STEP).item() for n in (-2, -1, 1, 2)}
    expected = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * STEP)
    assert slope.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("batching", "chunk"), WAYS)
def test_inputs_that_were_learned_get_a_gradient(batching, chunk):
    objective = randomize(Objective(MAML(mlp(1, 1, [4], activation=torch.nn.Softplus))))
    objective.batching, objective.chunk = batching, chunk
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6, 1)

    def loss(shift):
        tasks = Task(Examples(x + shift, x.sin()), Examples(x - shift, x.cos())).as_batch()
        return objective(tasks)["query"]

    shift = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(shift), shift)
    difference = (loss(shift.detach() + STEP) - loss(shift.detach() - STEP)) / (2 * STEP)
    assert slope.item() == pytest.approx(difference.item(), rel=1e-5)


class Shift(torch.nn.Module):
    """Reads a tensor that is learned elsewhere."""

    def __init__(self, owner, named):
        super().__init__()
        self.hidden = (owner,)
        if named:
            self.reads = (owner,)

    def forward(self, x):
        return x + self.hidden[0].bias


@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_tensors_learned_elsewhere_are_named_or_refused(batching):
    def gradient(mode, named):
        torch.manual_seed(0)
        owner, network = torch.nn.Linear(1, 4), mlp(1, 1, [4], activation=torch.nn.Softplus)
        network.backbone.add_module("shift", Shift(owner, named))
        objective = Objective(MAML(network, inner_steps=2)).double()
        objective.batching, objective.learner.differentiation = batching, mode
        objective.other = owner.double()
        x = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6, 1)
        tasks = Task(Examples(x, x.sin()), Examples(x, x.cos())).as_batch()
        return torch.autograd.grad(objective(tasks)["query"], owner.bias)[0]

    torch.testing.assert_close(gradient("mixed", named=True), gradient("reverse", named=False))
    with pytest.raises(MetaLensError, match=r"may read learned tensors of the learner alone"):
        gradient("mixed", named=False)
