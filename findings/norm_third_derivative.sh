#!/usr/bin/env bash
# Third derivatives of PyTorch's layer and batch normalization are wrong, and second ones in mixed mode.
#
# Behaviour: first and second derivatives by backward passes are right. A third one (a meta-gradient is a second one
#   already, so its Hessian products are third ones) is wrong without a word, and so is the gradient of a forward-mode
#   derivative, which is a second derivative only. F.group_norm is right throughout, also as a layer normalization.
#   The comparison is with the same function written as mean, variance and division, in double precision.
# Expected before the run: all right, as the derivatives of the derivatives are PyTorch's own.
# Versions: torch 2.13.0 (CPU), Python 3.11.7. Date: 2026-12-01.
# Output seen: layer_norm and batch_norm: right, right, wrong, and wrong in mixed mode / group_norm: right
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import torch
import torch.nn.functional as F
from torch.func import grad, jvp

torch.manual_seed(0)
x = torch.randn(4, 6, dtype=torch.float64)
v = [torch.randn(4, 6, dtype=torch.float64) for _ in range(4)]
weights = torch.randn(4, 6, dtype=torch.float64)


def plain(dims):
    def normalized(x):
        mean = x.mean(dims, keepdim=True)
        return (x - mean) / ((x - mean).square().mean(dims, keepdim=True) + 1e-5).sqrt()

    return normalized


NORMS = {
    "layer_norm": (lambda x: F.layer_norm(x, (6,)), plain(1)),
    "batch_norm": (lambda x: F.batch_norm(x, None, None, training=True), plain(0)),
    "group_norm": (lambda x: F.group_norm(x, 1), plain(1)),
}


def derivative(norm, order):
    """The derivative of a scalar in `order` directions, by one backward pass after the other."""
    point = x.clone().requires_grad_()
    value = (weights * norm(point).sin()).sum()
    for direction in v[:order]:
        (gradient,) = torch.autograd.grad(value, point, create_graph=True)
        value = (gradient * direction).sum()
    return value.item()


def mixed(norm):
    """The gradient, in one direction, of a derivative in forward mode: a second derivative."""

    def along(x):
        return jvp(lambda x: (weights * norm(x).sin()).sum(), (x,), (v[0],))[1]

    return (grad(along)(x) * v[1]).sum().item()


def error(one, other):
    return "right" if abs(one - other) < 1e-6 * abs(other) else "wrong"


for name, (fused, by_hand) in NORMS.items():
    orders = [error(derivative(fused, order), derivative(by_hand, order)) for order in (1, 2, 3)]
    print(f"{name}: orders 1 to 3 {', '.join(orders)}; reverse over forward mode {error(mixed(fused), mixed(by_hand))}")
PYTHON
seen=$("$folder/venv/bin/python" -W ignore "$folder/run.py")
printf '%s\n' "$seen"
expected="layer_norm: orders 1 to 3 right, right, wrong; reverse over forward mode wrong
batch_norm: orders 1 to 3 right, right, wrong; reverse over forward mode wrong
group_norm: orders 1 to 3 right, right, right; reverse over forward mode right"
[ "$seen" == "$expected" ] || { echo "This has changed."; exit 1; }
