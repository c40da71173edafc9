#!/usr/bin/env bash
# Optuna never gives up a trial whose process died before the trial's first heartbeat.
#
# Behaviour: with a heartbeat in a database, optuna.storages.fail_stale_trials fails the running trials whose last
#   heartbeat is older than the grace period. A trial that was asked for, but never recorded a heartbeat (its process
#   was killed in between, or study.ask is used without Study.optimize), has none, and stays RUNNING for ever.
# Expected before the run: no heartbeat counts as an old one, so both trials fail.
# Versions: optuna 5.0.0, SQLAlchemy 2.1.9, Python 3.11.7. Date: 2026-11-30.
# Output seen: with one old heartbeat: FAIL / without any: RUNNING
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0 SQLAlchemy==2.1.9
cat > "$folder/run.py" <<'PYTHON'
import sys
import time

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
storage = optuna.storages.RDBStorage(f"sqlite:///{sys.argv[1]}/trials.db", heartbeat_interval=1, grace_period=2)
study = optuna.create_study(storage=storage)
one, none = study.ask(), study.ask()
storage.record_heartbeat(one._trial_id)
time.sleep(4)
optuna.storages.fail_stale_trials(study)
states = {trial.number: trial.state.name for trial in study.get_trials()}
print("with one old heartbeat:", states[one.number])
print("without any:", states[none.number])
PYTHON
seen=$("$folder/venv/bin/python" -W ignore "$folder/run.py" "$folder")
printf '%s\n' "$seen"
expected='with one old heartbeat: FAIL
without any: RUNNING'
[ "$seen" == "$expected" ] || { echo "This has changed."; exit 1; }
