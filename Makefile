# Everything sets itself up: a virtual environment in .venv, made from pyproject.toml, with only Python and a registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test quick check clean

$(BIN)/terradistill: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(BIN)/pytest: $(BIN)/terradistill
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(BIN)/terradistill  ## draw scenes, distil them, show where the report is
	rm -rf demo
	$(BIN)/terradistill data draw --out demo/scenes
	$(BIN)/terradistill distill demo/scenes --ipc 5 --preset demo --out demo/run

test: $(BIN)/pytest  ## all tests
	$(BIN)/python -m pytest

quick: $(BIN)/pytest  ## the tests that take seconds
	$(BIN)/python -m pytest -m "not slow"

check: $(BIN)/pytest  ## lint, format, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/contracts/test_imports.py

clean:
	rm -rf $(VENV) demo
