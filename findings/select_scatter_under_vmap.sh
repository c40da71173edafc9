#!/usr/bin/env bash
# Differentiating through vmap(grad(f)) is silently wrong where f has select_scatter, and right for slice_scatter.
#
# Behaviour: the value of the vectorized function is that of a loop, and so is its inner gradient. The gradient of the
#   mean by the shared weight, taken outside of vmap, differs by more than a tenth of its norm, without a warning. The
#   neighbours slice_scatter and diagonal_scatter are right.
# Expected before the run: the loop and vmap agree to rounding for all three.
# Versions: torch 2.13.0, Python 3.11.7. Date: 2026-11-30.
# Output seen: select_scatter: same loss, other gradient / slice_scatter: same / diagonal_scatter: same
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import torch
from torch.func import grad

torch.manual_seed(0)
x, y = torch.randn(3, 4, 4, dtype=torch.double), torch.randn(3, 4, 4, dtype=torch.double)
w = torch.randn(4, 4, dtype=torch.double, requires_grad=True)


def verdict(change):
    def adapted(x, y):
        def loss(w):
            return (change(x @ w) - y).square().mean()

        return loss(w - 0.1 * grad(loss)(w))

    losses = torch.stack([adapted(*task) for task in zip(x, y)]).mean(), torch.vmap(adapted)(x, y).mean()
    (loop,), (mapped,) = (torch.autograd.grad(loss, w) for loss in losses)
    assert torch.allclose(*losses)
    return "same" if torch.allclose(loop, mapped) else "same loss, other gradient" * bool((loop - mapped).norm() > 0.1 * loop.norm())


print("select_scatter:", verdict(lambda p: torch.select_scatter(p, p[:, 1].sin(), 1, 0)))
print("slice_scatter:", verdict(lambda p: torch.slice_scatter(p, p[:, 1:3].sin(), 1, 0, 2)))
print("diagonal_scatter:", verdict(lambda p: torch.diagonal_scatter(p, p[:, 1].sin())))
PYTHON
seen=$("$folder/venv/bin/python" -W ignore "$folder/run.py")
printf '%s\n' "$seen"
expected='select_scatter: same loss, other gradient
slice_scatter: same
diagonal_scatter: same'
[ "$seen" == "$expected" ] || { echo "This has changed."; exit 1; }
