#!/usr/bin/env bash
# The dropout of scaled_dot_product_attention fails in a nested torch.vmap, where F.dropout does not.
#
# Behaviour: with randomness="different", vmap of vmap of F.dropout works. scaled_dot_product_attention with dropout_p
#   draws its mask in place, and raises "Cannot ask for different inplace randomness on an unbatched tensor", although
#   its inputs are batched at both levels. One level of vmap works.
# Expected before the run: both work at both depths.
# Versions: torch 2.13.0, Python 3.11.7. Date: 2026-11-30.
# Output seen: dropout: works, works / attention: works, RuntimeError / bernoulli_: works, RuntimeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import torch
import torch.nn.functional as F


def outcome(function):
    try:
        function(torch.ones(2, 3, 1, 4, 4))
    except RuntimeError:
        return "RuntimeError"
    return "works"


def mapped(function):
    return torch.vmap(function, randomness="different")


for name, function in (
    ("dropout", lambda x: F.dropout(x, 0.1, training=True)),
    ("attention", lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1)),
    ("bernoulli_", lambda x: torch.empty_like(x).bernoulli_(0.1)),
):
    print(f"{name}: {outcome(mapped(function))}, {outcome(mapped(mapped(function)))}")
PYTHON
seen=$("$folder/venv/bin/python" -W ignore "$folder/run.py")
printf '%s\n' "$seen"
expected='dropout: works, works
attention: works, RuntimeError
bernoulli_: works, RuntimeError'
[ "$seen" == "$expected" ] || { echo "This has changed."; exit 1; }
