# Everything lives in .venv, installed from requirements/*.txt; stamps make the second `make` instant.
# The first Python of at least 3.11 is taken; `make PYTHON=/path/to/python3 demo` takes another.

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-all test-wire test-kill fuzz bench fmt check docs pins clean
.DELETE_ON_ERROR:

export PYTHON
BIN := .venv/bin
WORKERS ?= auto
SEED ?= 1
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check

help:  ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile

demo: .venv/.demo  ## deploy the example agent with the official SDK, talk to it, stop
	@$(BIN)/python examples/quickstart/demo.py

serve: .venv/.base  ## run the platform in the foreground
	$(BIN)/cupola up

test: .venv/.dev  ## run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-all: .venv/.dev  ## run the tests; what cannot run here fails instead of being skipped
	CUPOLA_REQUIRE_ENGINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-wire: .venv/.dev  ## run the official clients against the platform
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/wire $(ARGS)

test-kill: .venv/.dev  ## kill the platform and its sandboxes at random points; SEED=n draws others
	$(BIN)/python -m tests.kill --seed $(SEED) $(ARGS)

fuzz: .venv/.dev  ## send ten thousand bad requests; SEED=n draws others
	$(BIN)/python -m tests.fuzz --seed $(SEED) $(ARGS)

bench: .venv/.dev  ## measure, each case beside the bare thing
	$(BIN)/python -m benchmarks $(ARGS)

fmt: .venv/.dev  ## format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

check: .venv/.dev  ## lint, types, imports
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports

docs: .venv/.dev  ## show what the next change log will say
	$(BIN)/towncrier build --draft --version next

pins: .venv/.dev  ## compile requirements/*.txt again
	scripts/pin.sh

clean:  ## remove what make has made
	rm -rf .venv .demo .cache

.venv/bin/python:
	@scripts/make_venv.sh .venv

.venv/.%: requirements/%.txt pyproject.toml | .venv/bin/python
	@echo "Installing requirements/$*.txt into .venv (once, about half a minute) ..."
	@$(INSTALL) --require-hashes -r $<
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@
