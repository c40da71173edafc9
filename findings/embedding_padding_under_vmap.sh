#!/usr/bin/env bash
# The meta-gradient through torch.vmap trains the padding row of an embedding, which padding_idx promises not to.
#
# Behaviour: F.embedding(x, weight, padding_idx=0) leaves row 0 of the gradient at 0, in a loop over tasks also where a
#   gradient step is differentiated. With the same step within torch.vmap, differentiated outside of it, the loss is the
#   same and row 0 gets a gradient. The other rows agree.
# Expected before the run: row 0 has no gradient in either way.
# Versions: torch 2.13.0, Python 3.11.7. Date: 2026-11-30.
# Output seen: loop: 0 / vmap: not 0 / other rows: same
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import torch
import torch.nn.functional as F
from torch.func import grad

torch.manual_seed(0)
x, y = torch.tensor([[0, 1, 3], [2, 0, 1]]), torch.randn(2, 3, 2, dtype=torch.double)
weight = torch.randn(4, 2, dtype=torch.double, requires_grad=True)


def adapted_loss(x, y):
    def loss(weight):
        return (F.embedding(x, weight, padding_idx=0).tanh() - y).square().mean()

    return loss(weight - 0.1 * grad(loss)(weight))


losses = torch.stack([adapted_loss(*task) for task in zip(x, y)]).mean(), torch.vmap(adapted_loss)(x, y).mean()
(loop,), (mapped,) = (torch.autograd.grad(loss, weight) for loss in losses)
assert torch.allclose(*losses)
for name, gradient in (("loop", loop), ("vmap", mapped)):
    print(f"{name}:", "not 0" if gradient[0].any() else "0")
print("other rows:", "same" if torch.allclose(loop[1:], mapped[1:]) else "different")
PYTHON
seen=$("$folder/venv/bin/python" -W ignore "$folder/run.py")
printf '%s\n' "$seen"
expected='loop: 0
vmap: not 0
other rows: same'
[ "$seen" == "$expected" ] || { echo "This has changed."; exit 1; }
