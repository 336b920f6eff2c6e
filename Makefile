# Every target makes .venv and installs what it needs by itself: nothing but Python 3.11 (or newer) and make is required.
#   make demo                    a model of every family on handwritten digits, one report
#   make test                    lint, types, layers, fast tests, README examples: what CI runs
#   make PIP_OPTIONS='--extra-index-url https://download.pytorch.org/whl/cpu' test      further options for pip (here: the small CPU build of torch)

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow bench lint docs clean

VENV ?= .venv
PIP_OPTIONS ?=
WORKERS ?= 2
PYTEST_OPTIONS ?=
DEMO_OPTIONS ?=
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -c constraints.txt
FOLDERS := $(wildcard src tests benchmarks docs examples)
# One thread a process: two test workers on two cores must not fight over them.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

help:
	@echo "make demo | test | test-slow | bench | lint | docs | clean"

$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3 python3.12 python3.13 python3.14 python; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found="$$python"; break; fi; \
	done; \
	if [ -z "$$found" ]; then echo "make: no Python 3.11 or newer was found; install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; fi; \
	echo "making $(VENV) with $$found"; "$$found" -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.core

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[docs]'
	@touch $@ $(VENV)/.core

demo: $(VENV)/.core
	$(BIN)/python -m manykin demo $(DEMO_OPTIONS)

lint: $(VENV)/.dev
	$(BIN)/ruff check $(FOLDERS)
	$(BIN)/ruff format --check $(FOLDERS)
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(ONE_THREAD) $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) $(PYTEST_OPTIONS)

test-slow: $(VENV)/.dev
	@if [ -z "$$MANYKIN_DATA" ]; then echo "make: MANYKIN_DATA is not set; the slow tests need the folder of data sets that it names." >&2; exit 2; fi
	$(ONE_THREAD) $(BIN)/python -m pytest -m slow -n $(WORKERS) $(PYTEST_OPTIONS)

bench: $(VENV)/.dev
	@set -e; for script in $(sort $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))); do echo "== $$script"; $(BIN)/python $$script; done
	$(BIN)/python benchmarks/gmm.py --stream
	$(BIN)/python benchmarks/conformance.py --level full

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "file://$(CURDIR)/docs/_build/html/index.html"

clean:
	rm -rf build dist docs/_build benchmarks/out .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis src/*.egg-info
	find src tests benchmarks docs examples -name __pycache__ -type d -prune -exec rm -rf {} +
