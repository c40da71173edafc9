# `make demo` and `make test` do all the set-up they need: Python 3.11 or newer, make and git suffice.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
BENCH := .venv-bench/bin
BENCH_READY := .venv-bench/.ready

.PHONY: demo test lint docs bench clean

demo: $(READY)
	$(BIN)/metalens run demo --out runs/demo --overwrite

test: $(READY)
	$(BIN)/python -m pytest -n auto

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict

# Writes the tables of paper/performance.md; for options, see `.venv-bench/bin/python -m tools.speed --help`.
bench: $(BENCH_READY)
	$(BENCH)/python -m tools.speed

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "MetaLens needs Python 3.11 or newer"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

$(BENCH_READY): pyproject.toml constraints.txt tools/speed/requirements.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH)/python -m pip install --quiet --constraint constraints.txt torch
	$(BENCH)/python -m pip install --quiet --constraint constraints.txt --editable .
	$(BENCH)/python -m pip install --quiet --constraint constraints.txt --requirement tools/speed/requirements.txt
	touch $(BENCH_READY)

clean:
	rm -rf .venv .venv-bench runs site .pytest_cache .ruff_cache
