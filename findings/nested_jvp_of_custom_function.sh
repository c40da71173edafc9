#!/usr/bin/env bash
# Forward mode twice through a custom autograd.Function with a jvp is 0 in PyTorch, without a word.
#
# Behaviour: the tangent that the static method jvp returns is not itself differentiated by an outer torch.func.jvp, so
#   the second derivative of x^3 at 2 is 0 in place of 12. Reverse mode, forward over reverse mode, and forward mode twice
#   over reverse mode are right for this function.
# Expected before the run: 12 for both second, and 6 for all third derivatives, or an error.
# Versions: torch 2.13.0 (CPU), Python 3.11.7. Date: 2026-12-01.
# Output seen: jvp of jvp: 0.0 / jvp of jvp of jvp: 0.0 / all others right
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import torch
from torch.func import grad, jvp


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * slope

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * tangent


def along(function):
    return lambda x: jvp(function, (x,), (torch.ones(()),))[1]


x = torch.tensor(2.0)
print("grad grad grad:", grad(grad(grad(Cube.apply)))(x).item())
print("jvp of grad grad:", along(grad(grad(Cube.apply)))(x).item())
print("jvp of grad:", along(grad(Cube.apply))(x).item())
print("jvp of jvp:", along(along(Cube.apply))(x).item())
print("jvp of jvp of grad:", along(along(grad(Cube.apply)))(x).item())
print("jvp of jvp of jvp:", along(along(along(Cube.apply)))(x).item())
PYTHON
seen=$("$folder/venv/bin/python" -W ignore "$folder/run.py")
printf '%s\n' "$seen"
expected="grad grad grad: 6.0
jvp of grad grad: 6.0
jvp of grad: 12.0
jvp of jvp: 0.0
jvp of jvp of grad: 6.0
jvp of jvp of jvp: 0.0"
[ "$seen" == "$expected" ] || { echo "This has changed."; exit 1; }
