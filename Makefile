# Everything a newcomer runs. `make demo` and `make test` set up .venv on their own; a second call is quick.
# Another Python: `make demo PYTHON=python3.12`. `make test PYTHON=python3.13 NEWEST=1` tests in .venv-newest, with the
# newest release of every package in place of those in constraints.txt, and without PyTorch.

PYTHON ?= python3
ifdef NEWEST
VENV := .venv-newest
INSTALL := --upgrade --upgrade-strategy eager
TEST_EXTRAS := dev
STYLE :=
PYTEST_OPTIONS := --without-torch
else
VENV := .venv
INSTALL := -c constraints.txt
TEST_EXTRAS := dev,torch
STYLE := lint
PYTEST_OPTIONS :=
endif
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SETUP_FILES := pyproject.toml setup.py constraints.txt
WORKFLOWS := $(wildcard .github/workflows/*.yml)
# NPROC: XLA's CPU client sizes its thread pool by it; with two cores a computation over several devices could
# otherwise wait for threads that never come. loadfile: what a file shares is made once.
PYTEST := NPROC=16 $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_OPTIONS)

# The environment made here has CPU wheels only.
export JAX_PLATFORMS ?= cpu

.DEFAULT_GOAL := help
.PHONY: help demo check test test-all lint format clean
.DELETE_ON_ERROR:

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo-ready  ## Set up, then segment pictures with the tiny GSVA and the tiny GELLA in the package.
	@$(BIN)/python -m gsva_jax.cli.demo
	@$(BIN)/python -m gella_jax.cli.demo

check: $(VENV)/.test-ready $(STYLE)  ## Style, types and the quick tests: under 3 minutes.
	@$(PYTEST) -m quick

test: $(VENV)/.test-ready $(STYLE)  ## Style, types and all tests but the slow: under 12 minutes on two cores.
	@$(PYTEST) -m "not slow"

test-all: $(VENV)/.test-all-ready $(STYLE)  ## Style, types and every test, fuzzers and the TPU's compiler included.
	@$(PYTEST)

lint: $(VENV)/.test-ready  ## Check style, layout and types, and the workflows by their schema.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows $(WORKFLOWS)

format: $(VENV)/.test-ready  ## Rewrite the code in the one layout, with the safe fixes.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## Remove the environments and whatever was built.
	rm -rf .venv .venv-newest build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.demo-ready: $(VENV)/.created $(SETUP_FILES)
	@echo "Installing the packages into $(VENV) (the first time takes a few minutes) ..."
	@$(PIP) install --quiet $(INSTALL) -e .
	@touch $@

$(VENV)/.test-ready: $(VENV)/.created $(SETUP_FILES)
	@echo "Installing the packages and the test tools into $(VENV) (the first time takes a few minutes) ..."
	@$(PIP) install --quiet $(INSTALL) -e '.[$(TEST_EXTRAS)]'
	@touch $@ $(VENV)/.demo-ready

$(VENV)/.test-all-ready: $(VENV)/.test-ready
	@echo "Installing the TPU's compiler into $(VENV) ..."
	@$(PIP) install --quiet $(INSTALL) -e '.[$(TEST_EXTRAS),tpu]'
	@touch $@

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)' on this machine: install Python 3.11" \
		"or newer, or name one with 'make ... PYTHON=/path/to/python'."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old:" \
		"Python 3.11 or newer is needed. Name one with 'make ... PYTHON=python3.11'."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments:" \
		"install its venv module (on Debian and Ubuntu: apt install python3-venv)."; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@
