PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MPLBACKEND := Agg

.PHONY: demo test test-long test-real lint clean

demo: $(VENV)/installed
	$(BIN)/python jobs/quickstart.py

test: $(VENV)/installed-test
	$(BIN)/python -m pytest

test-long: $(VENV)/installed-test
	$(BIN)/python -m pytest -m long --timeout 3600

test-real: $(VENV)/installed-test
	$(BIN)/python -m pytest -m real

lint: $(VENV)/installed-test
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[lint]'
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch is named first: with the pinned build installed, nothing later pulls another one.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
