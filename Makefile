# Everything a newcomer runs. `make demo` and `make test` set up .venv on their own; a second call is quick.
# Another Python: `make demo PYTHON=python3.12`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SETUP_FILES := pyproject.toml setup.py constraints.txt

# The environment made here has CPU wheels only.
export JAX_PLATFORMS ?= cpu

.DEFAULT_GOAL := help
.PHONY: help demo test lint format clean
.DELETE_ON_ERROR:

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo-ready  ## Set up, then segment two pictures with the tiny GSVA in the package.
	@$(BIN)/python -m gsva_jax.cli.demo

test: $(VENV)/.test-ready lint  ## Set up, check style, run all tests.
	@NPROC=16 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.test-ready  ## Check style and layout.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.test-ready  ## Rewrite the code in the one layout, with the safe fixes.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## Remove .venv and whatever was built.
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# NPROC=16 in `test`: XLA's CPU client sizes its thread pool by it; with two cores a computation over several
# devices could otherwise wait for threads that never come.

$(VENV)/.demo-ready: $(VENV)/.created $(SETUP_FILES)
	@echo "Installing the pinned packages into $(VENV) (the first time takes a few minutes) ..."
	@$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.test-ready: $(VENV)/.created $(SETUP_FILES)
	@echo "Installing the pinned packages and the test tools into $(VENV) (the first time takes a few minutes) ..."
	@$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.demo-ready

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)' on this machine: install Python 3.11" \
		"or newer, or name one with 'make ... PYTHON=/path/to/python'."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old:" \
		"Python 3.11 or newer is needed. Name one with 'make ... PYTHON=python3.11'."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments:" \
		"install its venv module (on Debian and Ubuntu: apt install python3-venv)."; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@
