# Each target sets up what it needs: the environment .venv, made once from requirements.txt.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# The interpreter to build .venv with; by default the first Python of at least 3.11 on the PATH.
PYTHON ?=
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11 python)

CONFIG ?= configs/classification/digits_resnet.py
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))
ARGS ?=
# Test processes: XLA:CPU keeps about one core busy with networks as small as the tests'.
WORKERS ?= 2

BIN := .venv/bin
READY := .venv/.ready
NATIVE := .venv/.native
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

$(READY): requirements.txt pyproject.toml
	@found=; for python in $(CANDIDATES); do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	    >/dev/null 2>&1 </dev/null; then found="$$python"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "make: no Python of at least 3.11 with its venv module among: $(CANDIDATES). Install one" \
	    "(Debian: apt install python3 python3-venv), or name it: make PYTHON=/path/to/python3.12 ..." >&2; \
	  exit 2; \
	fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo "Making .venv with $$("$$found" --version 2>&1)"; \
	  "$$found" -m venv --clear .venv; \
	fi
	@echo "Installing the pinned requirements into .venv (once; some minutes)"
	@$(PIP) install --quiet -r requirements.txt </dev/null
	@$(PIP) install --quiet --no-deps -e . </dev/null
	@touch $@

# oneDNN for convolutions, and pooling, on x86 CPUs; without a compiler the stock ones serve, and it says so in one line.
$(NATIVE): $(READY) $(wildcard cnn/native/*.cc cnn/native/*.h) cnn/native/build.py
	@$(BIN)/python -m cnn.native.build </dev/null || true
	@touch $@

.PHONY: train
train: $(NATIVE) ## train the main job; CONFIG=, WORKDIR= and ARGS= choose another
	$(BIN)/cnn train --config=$(CONFIG) --workdir=$(WORKDIR) $(ARGS)

.PHONY: test
test: $(NATIVE) ## every test, of long tables some cases, with line coverage; ARGS='-k name' chooses some
	$(PYTEST) -m 'not exhaustive' --cov=cnn --cov-report=term:skip-covered $(ARGS) </dev/null

.PHONY: test-all
test-all: $(NATIVE) ## every case of every test
	$(PYTEST) $(ARGS) </dev/null

.PHONY: test-fast
test-fast: $(NATIVE) ## the tests that take little time
	$(PYTEST) -m 'not slow' $(ARGS) </dev/null

.PHONY: test-durations
test-durations: $(NATIVE) ## run what `make test` runs and record what each test costs in tests/durations.csv
	$(PYTEST) -m 'not exhaustive' --record-durations $(ARGS) </dev/null

.PHONY: reproduce
reproduce: $(NATIVE) ## the small rows of three studies, one seed each; fails when one leaves its tolerance
	@set -e; for study in mnist1d ucr digits; do \
	  $(BIN)/python -m experiments.reproduce $$study --size=ci --seeds=1 --jobs=2 --rerun --check \
	    --results=.cache/reproduce/$$study.csv --workdir=.cache/reproduce $(ARGS); done

.PHONY: lint
lint: $(READY) ## ruff
	$(BIN)/ruff check .

.PHONY: bench
bench: $(NATIVE) ## every benchmark in experiments/benchmarks; each prints a table
	@set -e; shopt -s nullglob; for file in experiments/benchmarks/[a-z]*.py; do \
	  echo "== $$file"; $(BIN)/python -m "experiments.benchmarks.$$(basename "$$file" .py)" $(ARGS); done

.PHONY: lock
lock: ## renew requirements.txt with the newest versions within the bounds of pyproject.toml
	rm -rf .cache/lock
	$(firstword $(CANDIDATES)) -m venv .cache/lock
	.cache/lock/bin/python -m pip install --quiet '.[all]'
	{ grep '^#' requirements.txt; .cache/lock/bin/python -m pip freeze --exclude cnn; } > .cache/requirements.txt
	sed -i -e 's/^uvloop==.*/& ; sys_platform != "win32"/' \
	  -e 's/^onednn-.*/& ; sys_platform == "linux" and platform_machine == "x86_64"/' .cache/requirements.txt
	mv .cache/requirements.txt requirements.txt

.PHONY: clean
clean: ## remove the environment and every cache; runs/ stays
	rm -rf .venv .cache build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## this
	@echo "usage: make TARGET"
	@sed -n 's/^\([a-z-]*\):.*## /  \1|/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'
