#!/usr/bin/env bash
# The second derivative of PyTorch's weight normalization is wrong, without vmap and in double precision.
#
# Behaviour: torch._weight_norm, which torch.nn.utils.parametrizations.weight_norm calls, has a right gradient. The
#   gradient of a function of that gradient, as in MAML or a gradient penalty, is off by percents for the direction v;
#   the same formula written out, v * g / |v|, is right. With dim=None, which takes another path, it is right as well.
#   torch.autograd.gradgradcheck finds the mistake, too.
# Expected before the run: both agree with finite differences to 1e-6.
# Versions: torch 2.13.0, Python 3.11.7. Date: 2026-11-30.
# Output seen: fused, by row: wrong by percents / fused, as a whole: right / written out: right
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import torch

torch.manual_seed(0)
x, y = torch.randn(6, 4, dtype=torch.double), torch.randn(6, 5, dtype=torch.double)
g, v = torch.rand(5, 1, dtype=torch.double) + 0.5, torch.randn(5, 4, dtype=torch.double, requires_grad=True)


def adapted_loss(v, weight):
    loss = (torch.tanh(x @ weight(v).T) - y).square().mean()
    (gradient,) = torch.autograd.grad(loss, v, create_graph=True)
    return (torch.tanh(x @ weight(v - 0.1 * gradient).T) - y).square().mean()


def verdict(weight):
    (found,) = torch.autograd.grad(adapted_loss(v, weight), v)
    right, h = torch.zeros_like(v), 1e-6
    for place in range(v.numel()):
        step = torch.zeros_like(v).view(-1).index_fill(0, torch.tensor([place]), h).view_as(v)
        ahead, behind = (adapted_loss((v + s).detach().requires_grad_(), weight).item() for s in (step, -step))
        right.view(-1)[place] = (ahead - behind) / (2 * h)
    error = ((found - right).norm() / right.norm()).item()
    return "right" if error < 1e-6 else "wrong by percents" if error > 0.01 else f"wrong by {error:.0e}"


print("fused, by row:", verdict(lambda v: torch._weight_norm(v, g, 0)))
print("fused, as a whole:", verdict(lambda v: torch._weight_norm(v, g[0, 0], -1)))
print("written out:", verdict(lambda v: v * g / v.norm(dim=1, keepdim=True)))
PYTHON
seen=$("$folder/venv/bin/python" -W ignore "$folder/run.py")
printf '%s\n' "$seen"
expected='fused, by row: wrong by percents
fused, as a whole: right
written out: right'
[ "$seen" == "$expected" ] || { echo "This has changed."; exit 1; }
