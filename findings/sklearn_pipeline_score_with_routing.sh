#!/usr/bin/env bash
# scikit-learn's Pipeline.score fails with metadata routing if the score of its last step takes no sample_weight.
#
# Behaviour: Pipeline.score has sample_weight=None and always hands it to the routing, so with
#   enable_metadata_routing=True a pipeline that ends in an estimator such as KernelDensity, whose score takes inputs
#   and targets alone, raises a TypeError though no weights were given. Without routing the same call works.
# Expected before the run: the same number twice, as routing changes nothing where there is no metadata.
# Versions: scikit-learn 1.9.1, numpy 2.4.6, Python 3.11.7. Date: 2026-12-01.
# Output seen: without routing: -9.11 / with routing: TypeError, {'sample_weight'}, which are not routed to any object
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import numpy as np
from sklearn import config_context
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

x = np.arange(6.0)[:, None]
line = make_pipeline(StandardScaler(), KernelDensity()).fit(x)
print(f"without routing: {line.score(x):.2f}")
try:
    with config_context(enable_metadata_routing=True):
        print(f"with routing: {line.score(x):.2f}")
except TypeError as error:
    print("with routing: TypeError,", str(error).split("argument(s) ")[1].rstrip("."))
PYTHON
seen=$("$folder/venv/bin/python" "$folder/run.py")
printf '%s\n' "$seen"
[[ "$seen" == *"with routing: TypeError, {'sample_weight'}, which are not routed"* ]] || { echo "This has changed."; exit 1; }
