# `make demo` and `make test` do all the set-up they need: Python 3.11 or newer, make and git suffice.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# One thread for each of the processes that share the tests.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal --durations=10
# Of processor time, for a test that is not marked slow: twice what the slowest needs on a quiet machine.
MAX_SECONDS ?= 6
BENCH := .venv-bench/bin
BENCH_READY := .venv-bench/.ready
TABLES := .venv-tables/bin
TABLES_READY := .venv-tables/.ready

.PHONY: demo test test-full doctest coverage format lint docs release-check lock public-names sbom bench bench-tables gpu clean

demo: $(READY)
	$(BIN)/metalens run demo --out runs/demo --overwrite

# The tests of every change: each takes at most three seconds on a quiet machine. Then all examples of docstrings and pages.
test: $(READY)
	$(PYTEST) --max-seconds $(MAX_SECONDS)
	$(MAKE) doctest

# All tests, for a release: every combination of methods, real data sets, killed processes, simulations.
test-full: $(READY)
	$(PYTEST) -m ""
	$(MAKE) doctest

doctest: $(READY)
	$(PYTEST) -m "" --doctest-modules metalens paper tests/test_docs.py

coverage: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pytest-cov
	$(PYTEST) --cov metalens --cov-report term:skip-covered --cov-report html:runs/coverage

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/zizmor --offline --quiet --pedantic .github
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group docs
	$(BIN)/mkdocs build --strict

# Builds twice, compares, and uses the wheel in an empty environment; leaves what was built in dist/.
release-check: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group release
	$(BIN)/check-manifest --no-build-isolation
	rm -rf dist
	$(BIN)/python -m tools.release --out dist
	$(BIN)/check-wheel-contents dist
	$(BIN)/twine check --strict dist/*

# Writes the lock, of all that constraints.txt names, for every system and Python; needs the network.
lock: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --constraint constraints.txt --extra all --extra onnx --extra serve --extra tensorboard \
		--group dev --group docs --group release --output-file requirements.lock

# Writes tests/public_names.txt, after a public name or its arguments changed on purpose.
public-names: $(READY)
	$(BIN)/python -m tools.public_names

# Writes sbom.cdx.json, the bill of materials in the wheel, after the version or what the package needs changed.
sbom: $(READY)
	$(BIN)/python -m tools.sbom

# Writes the tables of paper/performance.md; for options, see `.venv-bench/bin/python -m tools.speed --help`.
bench: $(BENCH_READY)
	$(BENCH)/python -m tools.speed

# On a machine with a GPU: writes the table of docs/explanation/performance.md, in at most eight minutes.
gpu: $(BENCH_READY)
	$(BENCH)/python -m tools.gpu

# Writes docs/benchmark-tables.md, in hours, and goes on where it was stopped; for a look, OPTIONS=--quick.
bench-tables: $(TABLES_READY)
	$(TABLES)/python -m tools.tables $(OPTIONS)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "MetaLens needs Python 3.11 or newer"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'pip>=25.1' # for groups
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[chem,onnx,serve,sweep,tensorboard]' --group dev
	touch $(READY)

$(BENCH_READY): pyproject.toml constraints.txt tools/speed/requirements.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH)/python -m pip install --quiet --constraint constraints.txt torch
	$(BENCH)/python -m pip install --quiet --constraint constraints.txt --editable .
	$(BENCH)/python -m pip install --quiet --constraint constraints.txt --requirement tools/speed/requirements.txt
	touch $(BENCH_READY)

$(TABLES_READY): pyproject.toml constraints.txt tools/tables/requirements.txt
	$(PYTHON) -m venv .venv-tables
	$(TABLES)/python -m pip install --quiet --constraint constraints.txt torch
	$(TABLES)/python -m pip install --quiet --constraint constraints.txt --editable '.[chem]'
	$(TABLES)/python -m pip install --quiet --constraint constraints.txt --requirement tools/tables/requirements.txt
	touch $(TABLES_READY)

clean:
	rm -rf .venv .venv-bench .venv-tables dist runs site .pytest_cache .ruff_cache
