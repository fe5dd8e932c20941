# Two commands set everything up on a fresh machine with Python 3.11+: `make study` and `make test`.
PYTHON ?= python3
PYTHON_LOWEST ?= python3.11# the oldest that clsearch supports
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
SIZE := This takes about 6.5 GB and some minutes (README.md has a line for a CPU-only torch, which is smaller).

.PHONY: study test test-system lint docs bench build environments test-lowest clean

study: $(VENV)/.installed
	$(BIN)/python studies/lwf_temperature_sweep.py

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --all --numprocesses 2 --dist loadfile -m "not (smoke and slow)" --ignore tests/integration
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not system" tests/integration

test-system: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m system tests/integration

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs
	$(BIN)/python -m mkdocs build --strict

build: $(VENV)/.installed-dev
	.ci/check_build.sh $(BIN)/python

environments: $(VENV)/.installed-dev $(LOWEST)/.installed

test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest --numprocesses 2 --dist loadfile
	$(LOWEST)/bin/python studies/lwf_temperature_sweep.py --trials 4 --seeds 2 --epochs 2 --report-seeds 2 \
		--results $(LOWEST)/results --fresh

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/fisher.py
	$(BIN)/python benchmarks/cohort.py
	$(BIN)/python benchmarks/study.py

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "clsearch needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing torch, Ray, MLflow, Optuna and others into $(VENV). $(SIZE)"
	$(BIN)/python -m pip install --quiet --editable .
	@echo "Installed."
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing torch, Ray, MLflow, Optuna, and what development needs, into $(VENV). $(SIZE)"
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@echo "Installed."
	touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $(VENV)/.installed $@

$(LOWEST)/.installed: pyproject.toml requirements/lowest.txt
	@echo "Installing the lowest versions of all dependencies into $(LOWEST). This takes about 5.5 GB and some minutes."
	$(PYTHON_LOWEST) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --editable '.[test]' --constraint requirements/lowest.txt
	@echo "Installed."
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) build dist site *.egg-info
