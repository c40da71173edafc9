"""Meta-Curvature against matrices that are explicit Kronecker products, in a plain loop."""

import pytest
import torch
from plain_loop import KINDS, LR, STEPS, assert_same, loss, network, number, tanh_mlp
from torch import Tensor, nn

from metalens import MAML, MetaCurvature, Network


def shaken(learner: MetaCurvature) -> list[Tensor]:
    torch.manual_seed(5)
    with torch.no_grad():
        for matrix in learner.matrices:
            matrix.add_(0.3 * torch.randn_like(matrix))
    return list(learner.matrices)


@KINDS
@pytest.mark.parametrize("first_order", [False, True])
def test_meta_curvature(first_order, tasks):
    learner = MetaCurvature(network(), inner_lr=LR, inner_steps=STEPS, first_order=first_order)
    assert all(torch.equal(m, torch.eye(len(m), dtype=m.dtype)) for m in learner.matrices)
    parts = iter(shaken(learner))
    start = list(learner.network.parameters())
    products = [torch.kron(next(parts), next(parts)) if p.dim() == 2 else next(parts) for p in start]
    assert next(parts, None) is None

    def reference(i: int) -> Tensor:
        xs, ys, xq, yq = number(tasks, i)
        values = start
        for _ in range(STEPS):
            gradients = torch.autograd.grad(
                loss(tanh_mlp(values, xs), ys), values, create_graph=not first_order, retain_graph=True
            )
            values = [
                value - LR * (product @ gradient.flatten()).view_as(value)
                for value, product, gradient in zip(values, products, gradients, strict=True)
            ]
        return loss(tanh_mlp(values, xq), yq)

    assert_same(learner, tasks, reference)


@KINDS
def test_identities_are_maml(tasks):
    settings = {"inner_lr": LR, "inner_steps": STEPS, "inner_momentum": 0.5}
    support = tasks.support.x[0], tasks.support.y[0]
    own, maml = (make(network(), **settings).adapt_encoded(*support) for make in (MetaCurvature, MAML))
    torch.testing.assert_close(own, maml)


def test_a_convolution_has_a_matrix_of_the_places_of_its_filter():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(2, 3, (2, 1)), nn.Flatten())
    learner = MetaCurvature(Network(backbone, nn.Linear(6, 2), n_features=6, n_outputs=2).double())
    m_o, m_i, m_f, m_b, *_ = shaken(learner)
    assert [len(m) for m in (m_o, m_i, m_f, m_b)] == [3, 2, 2, 3]
    gradients = {name: torch.randn_like(p) for name, p in learner.network.named_parameters()}
    found = learner.transform(gradients)
    own = gradients["backbone.0.weight"]
    expected = torch.kron(torch.kron(m_o, m_i), m_f) @ own.flatten()
    torch.testing.assert_close(found["backbone.0.weight"], expected.view_as(own))
    torch.testing.assert_close(found["backbone.0.bias"], m_b @ gradients["backbone.0.bias"])


def test_a_number_has_a_matrix():
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x

    learner = MetaCurvature(Network(Scale(), nn.Identity(), n_features=1, n_outputs=1))
    with torch.no_grad():
        learner.matrices[0].fill_(3.0)
    assert learner.transform({"backbone.scale": torch.tensor(5.0)}) == {"backbone.scale": 15}
