#!/usr/bin/env bash
# pandas.read_csv(thousands=",") takes the mark out of any number, wherever it stands: "0,12" is 12, and "1,2,3" is 123.
#
# Behaviour: the mark is not checked to stand before groups of three digits, so that a decimal comma, or a list of
#   numbers in one cell, becomes a whole number of another size, with a type of integers and without a warning.
# Expected before the run: "12,345" is 12345; the others are no numbers with thousands, and the column stays text.
# Versions: pandas 3.1.1, numpy 2.4.6, Python 3.11.7. Date: 2026-11-30.
# Output seen: 12,345: 12345 / 0,12: 12 / 1,2,3: 123 / type: int64
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pandas==3.1.1 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import io

import pandas as pd

cells = ["12,345", "0,12", "1,2,3"]
text = "\n".join(["a", *(f'"{cell}"' for cell in cells)])
column = pd.read_csv(io.StringIO(text), thousands=",")["a"]
for cell, number in zip(cells, column, strict=True):
    print(f"{cell}: {number}")
print("type:", column.dtype)
PYTHON
seen=$("$folder/venv/bin/python" -W ignore "$folder/run.py")
printf '%s\n' "$seen"
expected='12,345: 12345
0,12: 12
1,2,3: 123
type: int64'
[ "$seen" == "$expected" ] || { echo "This has changed."; exit 1; }
