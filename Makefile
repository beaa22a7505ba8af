# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0

# Where the environment lives. Elsewhere than .venv it may serve many clones.
MMLAPP_VENV ?= .venv
# A folder with a ready wheel of mmcv; empty: mmcv is built from source.
WHEELS ?= $(wildcard ../shared/wheels)
# The interpreter of a new environment; empty: the first one that fits.
PYTHON ?=
# More arguments for pytest, as in `make test ARGS='-k narrow'`.
ARGS ?=
# Which networks `make fuzz` makes: one seed, or those from:to.
SEEDS ?= 0:3000

# What is set up is noted by the content of the requirements, not their age: a
# fresh clone finds a cached environment up to date.
SHA256 := $(shell command -v sha256sum || echo 'shasum -a 256')
KEY := $(shell cat requirements/*.txt requirements/install.sh \
	| $(SHA256) | cut -c 1-16)
INSTALL := bash requirements/install.sh "$(MMLAPP_VENV)" $(KEY)
PY := "$(MMLAPP_VENV)/bin/python"

export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow fuzz check format clean key

help:  ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' \
		Makefile

env demo: export PYTHON := $(PYTHON)
env demo: export WHEELS := $(WHEELS)

env:  ## Set up the environment, if that is not done
	@$(INSTALL)

# The classifier needs no compiled operators: they are built meanwhile.
demo:  ## Train, prune and deploy two small networks on real digits
	@$(INSTALL) classifiers
	@if [ ! -e "$(MMLAPP_VENV)/.ready-$(KEY)" ]; then \
		$(PY) requirements/meanwhile.py \
			--log "$(MMLAPP_VENV)/operators.log" \
			'$(INSTALL) operators' \
			'$(PY) tools/demo.py --resume --only classification'; \
	fi
	@$(INSTALL)
	@$(PY) tools/demo.py --resume

test: env  ## Run the tests; more arguments for pytest in ARGS
	@$(PY) -m pytest $(ARGS)

test-slow: env  ## Run the tests that take minutes
	@$(PY) -m pytest -m slow $(ARGS)

fuzz: env  ## Look for faults in networks at random, as SEEDS=0:3000
	@PYTHONPATH="$(PYTHONPATH):tests" $(PY) -m fuzzing $(SEEDS)

check: env  ## Check format, lint and types
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy

format: env  ## Format, and mend what the linter can mend
	@$(PY) -m ruff check --fix-only .
	@$(PY) -m ruff format .

clean:  ## Remove caches and build results, not the environment
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -not -path './.venv/*' \
		-prune -exec rm -rf {} +

key:  # The name of this set of requirements, for caches
	@echo $(KEY)
