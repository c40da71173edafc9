#!/usr/bin/env bash
# scipy.io.arff.loadarff cannot read a nominal value beyond ASCII, such as a city with an umlaut.
#
# Behaviour: the values of a nominal attribute become an array of bytes, for which they are encoded as ASCII:
#   UnicodeEncodeError, although the header with the same word was read. The file is text that Python has decoded.
# Expected before the run: the word comes back, as bytes in UTF-8 or as text; the format of Weka is not limited to ASCII.
# Versions: scipy 1.17.1, numpy 2.4.6, Python 3.11.7. Date: 2026-11-30.
# Output seen: Bern: b'Bern' / Zürich: UnicodeEncodeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import io
import sys

from scipy.io import arff

sys.stdout.reconfigure(encoding="utf-8")
head = "@relation cities\n@attribute city {Bern,Zürich}\n@data\n"
for word in ("Bern", "Zürich"):
    try:
        values, _ = arff.loadarff(io.StringIO(head + word + "\n"))
        print(f"{word}: {values['city'][0]}")
    except UnicodeEncodeError as error:
        print(f"{word}: {type(error).__name__}")
PYTHON
seen=$("$folder/venv/bin/python" -W ignore "$folder/run.py")
printf '%s\n' "$seen"
expected="Bern: b'Bern'
Zürich: UnicodeEncodeError"
[ "$seen" == "$expected" ] || { echo "This has changed."; exit 1; }
