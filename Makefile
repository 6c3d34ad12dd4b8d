# The words of this project. Each does its own set-up on a fresh machine.
#   make setup   a virtual environment with everything
#   make demo    one real cycle on real requests with a real model, ending in a report (SMALL=1: a short one)
#   make test    the tests
#   make check   style, types, layers
#   make bench   figures for benchmarks/results (also bench-NAME)
#   make soak    long runs (also soak-NAME)
#   make gpu     the tests and figures that need a GPU
#   make docs    regenerate the reference parts of the README
#   make lock    write requirements.lock anew: constraints.txt with the hash of every file

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SMALL ?=
DEMO := $(if $(SMALL),demo-small,demo)

.PHONY: setup demo test check audit bench soak gpu docs lock clean
setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt plugins/agentkd-bfcl/pyproject.toml plugins/agentkd-llb/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' # the one of Python 3.11 takes minutes to resolve
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[all,dev]' --editable plugins/agentkd-bfcl \
	  --editable plugins/agentkd-llb # most of the 20,000 modules are never imported
	touch $(STAMP)

demo: setup
	$(BIN)/python examples/demo/demo.py $(DEMO) $(if $(SMALL),--small)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tests/audit.py

bench: bench-loop
bench-%: setup
	$(BIN)/python benchmarks/$*.py $(if $(SMALL),--small)

soak: soak-kill soak-fault soak-lease soak-resume soak-memory soak-damage
soak-%: setup
	$(BIN)/python benchmarks/soak_$*.py $(if $(SMALL),--small)

gpu: setup
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/gpu.py

docs: setup
	$(BIN)/python -m agentkd.cli docs README.md

lock: setup
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra all --extra dev --constraint constraints.txt --generate-hashes \
	  --python-version 3.11 --python-platform linux --no-header --quiet --output-file requirements.lock \
	  $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS))

clean:
	rm -rf build dist demo-small .mypy_cache .ruff_cache .pytest_cache .hypothesis
