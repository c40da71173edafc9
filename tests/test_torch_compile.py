"""`torch.compile(objective, fullgraph=True)`: one graph, and the numbers of the plain step."""

from functools import partial

import pytest
import torch

from metalens import (
    ANIL,
    IMAML,
    MAML,
    R2D2,
    Examples,
    MetaSGD,
    Objective,
    ProtoNet,
    Sinusoid,
    TNet,
    TRLearner,
    mlp,
)
from metalens.objective import terms_and_gradient

CURVES = Sinusoid(k_shot=3, n_query=2).batch(range(3))
CLASSES = CURVES.map(lambda examples: Examples(examples.x, (examples.y > 0).long().squeeze(-1)))


def objective(learner, tasks, *, related):
    torch.manual_seed(0)
    built = learner(mlp(1, 1 if tasks.query.y.is_floating_point() else 2, hidden=[4]))
    return Objective(built, [TRLearner()] if related else [])


@pytest.fixture(scope="module", autouse=True)
def compiler():
    """Load the compiler, which takes seconds, before the first test."""
    torch.compile(torch.sin, backend="eager")(torch.zeros(1))


GRADIENT = [MAML, ANIL, MetaSGD, TNet]
CASES = [
    *((learner, False) for learner in (*GRADIENT, ProtoNet, R2D2)),
    *(pytest.param(learner, True, marks=pytest.mark.slow) for learner in (ProtoNet, R2D2, *GRADIENT)),
]


@pytest.mark.parametrize(("learner", "related"), CASES)
def test_a_compiled_objective_has_the_plain_terms_and_gradients(learner, related):
    torch.compiler.reset()
    tasks = CLASSES if learner is ProtoNet else CURVES
    plain = objective(learner, tasks, related=related)
    weights = list(plain.parameters())
    terms, gradients = terms_and_gradient(plain, tasks, weights)
    assert ("trlearner" in terms) == related
    compiled = torch.compile(plain, fullgraph=True, backend="eager")
    own_terms, own_gradients = terms_and_gradient(compiled, tasks, weights)
    torch.testing.assert_close(own_terms, terms)
    torch.testing.assert_close(own_gradients, gradients)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_the_solver_of_imaml_breaks_the_graph():
    """Its gradient is an `autograd.Function`, whose rule for `vmap` is lost when PyTorch traces it."""
    torch.compiler.reset()
    quick = partial(IMAML, inner_steps=1, cg_steps=1)
    compiled = torch.compile(objective(quick, CURVES, related=False), fullgraph=True, backend="eager")
    with pytest.raises(RuntimeError, match="does not have vmap support"):
        compiled(CURVES)
