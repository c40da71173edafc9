#!/usr/bin/env bash
# torch.compile(fullgraph=True) cannot trace functools.cached_property of Python 3.11, nor a call of dict[str, Tensor].
#
# Behaviour: a property computed once, by functools.cached_property, takes a lock in Python 3.11 (removed in 3.12),
#   and Dynamo has no rule for that lock as a context manager: "Unsupported context manager". A subscripted built-in
#   type that is called, dict[str, torch.Tensor](a=x), is "Unsupported function call", although dict(a=x) is traced.
# Expected before the run: both are traced, since neither depends on data; the second is only an annotation.
# Versions: torch 2.13.0, Python 3.11.7. Date: 2026-11-30.
# Output seen: plain dict: traced / cached_property: Unsupported / generic alias: Unsupported
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
from functools import cached_property

import torch


class Views:
    def __init__(self, x):
        self.x = x

    @cached_property
    def doubled(self):
        return 2 * self.x


def state(program):
    torch.compiler.reset()
    try:
        torch.compile(program, fullgraph=True, backend="eager")(torch.ones(3))
    except torch._dynamo.exc.Unsupported:
        return "Unsupported"
    return "traced"


print("plain dict:", state(lambda x: dict(a=x)["a"].sum()))
print("cached_property:", state(lambda x: Views(x).doubled.sum()))
print("generic alias:", state(lambda x: dict[str, torch.Tensor](a=x)["a"].sum()))
PYTHON
seen=$("$folder/venv/bin/python" -W ignore "$folder/run.py")
printf '%s\n' "$seen"
expected='plain dict: traced
cached_property: Unsupported
generic alias: Unsupported'
[ "$seen" == "$expected" ] || { echo "This has changed."; exit 1; }
