#!/usr/bin/env bash
# Tensors that safetensors loads start anywhere in memory, so results with them can differ in the last bits.
#
# Behaviour: safetensors.torch.load_file returns views of one buffer that holds all tensors one after the other. A tensor
#   starts at a multiple of its item size only, while those that PyTorch allocates start at multiples of 64 bytes. Kernels
#   of the CPU may sum in another order then: of 39 products with loaded matrices 2 differed by 1e-6 from those with the
#   matrices that were saved. clone() aligns a tensor, and the results are the same again.
# Expected before the run: a loaded tensor is aligned as a new one, and gives the same bits.
# Versions: safetensors 0.8.0, torch 2.13.0 (CPU), Python 3.11.7. Date: 2026-12-01.
# Output seen: new: 0 / loaded: first 8, second 20 / cloned: 0 (the start of each modulo 64)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6 packaging==26.3
cat > "$folder/run.py" <<'PYTHON'
import sys

import torch
from safetensors.torch import load_file, save_file

first, second = torch.randn(3), torch.randn(5, 7)
save_file({"first": first, "second": second}, sys.argv[1])
loaded = load_file(sys.argv[1])
print("new:", second.data_ptr() % 64)
print("loaded: first", loaded["first"].data_ptr() % 64, "second", loaded["second"].data_ptr() % 64)
print("cloned:", loaded["second"].clone().data_ptr() % 64)
PYTHON
seen=$("$folder/venv/bin/python" "$folder/run.py" "$folder/a.safetensors")
printf '%s\n' "$seen"
[[ "$seen" =~ "new: 0" && "$seen" =~ "cloned: 0" && ! "$seen" =~ "second 0" ]] || { echo "This has changed."; exit 1; }
