PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MPLBACKEND := Agg

.PHONY: demo test test-long test-real test-torcheeg bench lint clean

demo: $(VENV)/installed
	$(BIN)/python jobs/quickstart.py

test: $(VENV)/installed-test
	$(BIN)/python -m pytest

test-long: $(VENV)/installed-test
	$(BIN)/python -m pytest -m long --timeout 3600

test-real: $(VENV)/installed-test
	$(BIN)/python -m pytest -m real

# TorchEEG asks for a scipy of 2022 and reads well with today's: its other needs are named here, without that one.
TORCHEEG := .venv-torcheeg
test-torcheeg: $(VENV)/installed-test
	$(PYTHON) -m venv $(TORCHEEG)
	echo "$(abspath $(VENV))/lib/$$(ls $(VENV)/lib)/site-packages" > $(TORCHEEG)/lib/$$(ls $(VENV)/lib)/site-packages/project.pth
	$(TORCHEEG)/bin/pip install --quiet --no-deps torcheeg==1.1.3 einops xmltodict mne-connectivity pytorch-lightning \
		lightning-utilities torchmetrics xlrd PyWavelets spectrum easydev colorlog colorama netCDF4 cftime xarray wfdb
	EMOD_TORCHEEG=$(TORCHEEG)/bin/python $(BIN)/python -m pytest -m torcheeg

bench: $(VENV)/installed-test
	$(BIN)/python -m tests.bench

lint: $(VENV)/installed-test
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[lint]'
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) $(TORCHEEG) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch is named first: with the pinned build installed, nothing later pulls another one.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
