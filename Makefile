# Everything sets itself up: a virtual environment in .venv, made from pyproject.toml, with only Python and a registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test quick check wheel clean

$(BIN)/terradistill: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(BIN)/pytest: $(BIN)/terradistill
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(BIN)/terradistill  ## distil the sample scenes, show where the report is
	rm -rf demo
	$(BIN)/terradistill distill sample --ipc 5 --preset demo --out demo

test: $(BIN)/pytest  ## all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

quick: $(BIN)/pytest  ## all tests but those that take minutes
	$(BIN)/python -m pytest -m "not slow"

check: $(BIN)/pytest  ## lint, format, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/contracts/test_imports.py

wheel: $(BIN)/pytest  ## build the wheel, install it in a fresh environment, run the demo there with the network cut
	rm -rf dist build
	$(BIN)/python -m build --wheel
	$(PYTHON) -c "import glob, os; size = os.path.getsize(*glob.glob('dist/*.whl')); print(size); assert size < 100e6"
	$(PYTHON) -m venv build/fresh
	build/fresh/bin/python -m pip install --quiet dist/*.whl
	! PYTHONPATH=scripts/offline build/fresh/bin/python -c "import socket; socket.getaddrinfo('localhost', 80)"
	cd build && PYTHONPATH=$(CURDIR)/scripts/offline fresh/bin/terradistill distill sample --ipc 5 --preset demo --out demo
	cd build && PYTHONPATH=$(CURDIR)/scripts/offline fresh/bin/terradistill generate --prompt "a satellite image of a river" --out river

clean:
	rm -rf $(VENV) demo dist build
