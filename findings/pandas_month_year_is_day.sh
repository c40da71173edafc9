#!/usr/bin/env bash
# pandas.to_datetime reads months as Excel writes them, mmm-yy, in two ways within one column: Jan-31 is a day of the
# year 1, and Jan-32 is January 2032.
#
# Behaviour: without a format that it infers, each cell goes to dateutil, for which 1 to 31 is the day of the month. The
#   missing year is then 1. The only sign is a warning that the format could not be inferred.
# Expected before the run: all four are first days of a month, of 2013, 2031, 2032 and 1999.
# Versions: pandas 3.1.1, python-dateutil 2.9.0.post0, Python 3.11.7. Date: 2026-11-30.
# Output seen: Jan-13: 0001-01-13 / Jan-31: 0001-01-31 / Jan-32: 2032-01-01 / Dec-99: 1999-12-01
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pandas==3.1.1 numpy==2.4.6 python-dateutil==2.9.0.post0
cat > "$folder/run.py" <<'PYTHON'
import pandas as pd

cells = ["Jan-13", "Jan-31", "Jan-32", "Dec-99"]
for cell, time in zip(cells, pd.to_datetime(pd.Series(cells)), strict=True):
    print(f"{cell}: {str(time)[:10]}")
PYTHON
seen=$("$folder/venv/bin/python" -W ignore "$folder/run.py")
printf '%s\n' "$seen"
expected='Jan-13: 0001-01-13
Jan-31: 0001-01-31
Jan-32: 2032-01-01
Dec-99: 1999-12-01'
[ "$seen" == "$expected" ] || { echo "This has changed."; exit 1; }
