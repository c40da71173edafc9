#!/usr/bin/env bash
# torch.export takes len(x) as a constant where x.shape[0] stays symbolic.
#
# Behaviour: a module that divides by x.shape[0] exports with a dynamic number of rows. The same module with len(x),
#   whose value is the same, does not: with a named Dim the export is refused ("specialized it to be a constant"), and
#   with Dim.AUTO it succeeds, without a word, as a program for the number of rows of the example alone.
# Expected before the run: both export alike, as len(x) is x.shape[0] for a tensor.
# Versions: torch 2.13.0 (CPU), Python 3.11.7. Date: 2026-12-01.
# Output seen: ByShape: Dim ok, AUTO ok / ByLen: Dim refused, AUTO fixed to 4 rows
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import torch
from torch import nn
from torch.export import Dim, export


class ByShape(nn.Module):
    def forward(self, x):
        return x.sum(0) / x.shape[0]


class ByLen(nn.Module):
    def forward(self, x):
        return x.sum(0) / len(x)


def found(module, rows, name):
    try:
        program = export(module, (torch.ones(4, 3),), dynamic_shapes=({0: rows},)).module()
    except Exception as error:
        return f"{name} refused" if "specialized it to be a constant" in str(error) else f"{name}: {error}"
    try:
        return f"{name} ok" if program(torch.ones(7, 3)).tolist() == [1.0] * 3 else f"{name} wrong"
    except AssertionError as error:
        return f"{name} fixed to 4 rows" if "== 4" in str(error) else f"{name}: {error}"


lines = [
    f"{type(module).__name__}: {found(module, Dim('rows'), 'Dim')}, {found(module, Dim.AUTO, 'AUTO')}"
    for module in (ByShape(), ByLen())
]
print(*lines, sep="\n")
assert lines == ["ByShape: Dim ok, AUTO ok", "ByLen: Dim refused, AUTO fixed to 4 rows"]
PYTHON
"$folder/venv/bin/python" "$folder/run.py" 2> /dev/null
