PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export MPLBACKEND := Agg

.PHONY: demo test test-long test-real test-browser test-torcheeg test-triton test-kustomize test-rules test-gpu bench drill audit debian lint clean

demo: $(VENV)/installed
	$(BIN)/python jobs/quickstart.py

# Two files at a time: each spends much of its time waiting for processes that start.
test: $(VENV)/installed-test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-long: $(VENV)/installed-test
	$(BIN)/python -m pytest -m long --timeout 3600

test-real: $(VENV)/installed-test
	$(BIN)/python -m pytest -m real

# The machine's own Chromium, or another by its path.
EMOD_BROWSER ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
test-browser: $(VENV)/installed-test
	@test -n "$(EMOD_BROWSER)" || { echo "no Chromium on this machine: install one, or set EMOD_BROWSER" >&2; exit 2; }
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[browser]'
	EMOD_BROWSER=$(EMOD_BROWSER) $(BIN)/python -m pytest -m browser

# TorchEEG asks for a scipy of 2022 and reads well with today's: its other needs are named here, without that one.
TORCHEEG := .venv-torcheeg
test-torcheeg: $(VENV)/installed-test
	$(PYTHON) -m venv $(TORCHEEG)
	echo "$(abspath $(VENV))/lib/$$(ls $(VENV)/lib)/site-packages" > $(TORCHEEG)/lib/$$(ls $(VENV)/lib)/site-packages/project.pth
	$(TORCHEEG)/bin/pip install --quiet --no-deps torcheeg==1.1.3 einops xmltodict mne-connectivity pytorch-lightning \
		lightning-utilities torchmetrics xlrd PyWavelets spectrum easydev colorlog colorama netCDF4 cftime xarray wfdb
	EMOD_TORCHEEG=$(TORCHEEG)/bin/python $(BIN)/python -m pytest -m torcheeg

# A gigabyte that only PyTorch's builds for GPUs bring along.
TRITON := .venv-triton
test-triton: $(VENV)/installed-test
	$(PYTHON) -m venv $(TRITON)
	echo "$(abspath $(VENV))/lib/$$(ls $(VENV)/lib)/site-packages" > $(TRITON)/lib/$$(ls $(VENV)/lib)/site-packages/project.pth
	$(TRITON)/bin/pip install --quiet --no-deps triton==3.7.1
	TRITON_INTERPRET=1 $(TRITON)/bin/python -m pytest -m triton

test-kustomize: $(VENV)/installed-test
	$(BIN)/python -m pytest -m kustomize

# What alerts ring for and what not, by Prometheus' own promtool.
test-rules:
	promtool check rules infra/monitoring/emod.rules.yml
	promtool test rules infra/monitoring/emod.rules.test.yml

# Two ranks over NCCL against one: where there are two GPUs.
test-gpu: $(VENV)/installed-test
	$(BIN)/python -m tests.gpu

bench: $(VENV)/installed-test
	$(BIN)/python -m tests.bench

# Every job on a cluster of real parts while they are killed; up to 25 minutes, as root. `make debian` installs what it needs.
drill: $(VENV)/installed-test
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[drill]'
	$(BIN)/python -m tests.drill

# Known vulnerabilities of the packages in constraints.txt, asked of PyPI's database.
AUDIT := .venv-audit
audit:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet pip-audit
	$(AUDIT)/bin/pip-audit --requirement constraints.txt --strict --no-deps --disable-pip --progress-spinner off

# What the drill and the browser's tests need from the machine itself, as root.
debian:
	apt-get update --quiet
	apt-get install --quiet --yes --no-install-recommends postgresql iproute2 util-linux shellcheck chromium

lint: $(VENV)/installed-test
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[lint]'
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) $(TORCHEEG) $(TRITON) $(AUDIT) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch is named first: with the pinned build installed, nothing later pulls another one.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

# PyPI has torchaudio for CUDA alone; beside a CPU build of torch its compiled part cannot be loaded, nor is it needed.
$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/python -c "import torchaudio" 2> /dev/null || rm -f $(VENV)/lib/*/site-packages/torchaudio/lib/*.so
	touch $@
