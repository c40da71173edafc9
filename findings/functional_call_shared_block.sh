#!/usr/bin/env bash
# torch.func.functional_call does not put back the parameters of a module that has one submodule in two places.
#
# Behaviour: after functional_call with other tensors, a block that is registered under two names keeps the tensors of
#   the call: its weight is no Parameter any more, and training goes on with constants. A single tensor that two
#   different layers share is put back. With tie_weights=False, each tensor given once, the block is put back, too.
# Expected before the run: the module is as it was, as the documentation promises a purely functional call.
# Versions: torch 2.13.0, Python 3.11.7. Date: 2026-11-30.
# Output seen: block in two places: Tensor / weight of two layers: Parameter / block, tie_weights=False: Parameter
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import torch
from torch import nn
from torch.func import functional_call


def kind_after(module, layer, **options):
    others = {name: torch.zeros_like(parameter) for name, parameter in module.named_parameters()}
    functional_call(module, others, (torch.ones(1, 2),), **options)
    return type(layer.weight).__name__


block = nn.Linear(2, 2)
print("block in two places:", kind_after(nn.Sequential(block, nn.Tanh(), block), block))
one, other = nn.Linear(2, 2), nn.Linear(2, 2)
other.weight = one.weight
print("weight of two layers:", kind_after(nn.Sequential(one, nn.Tanh(), other), other))
block = nn.Linear(2, 2)
print("block, tie_weights=False:", kind_after(nn.Sequential(block, nn.Tanh(), block), block, tie_weights=False))
PYTHON
seen=$("$folder/venv/bin/python" -W ignore "$folder/run.py")
printf '%s\n' "$seen"
expected='block in two places: Tensor
weight of two layers: Parameter
block, tie_weights=False: Parameter'
[ "$seen" == "$expected" ] || { echo "This has changed."; exit 1; }
