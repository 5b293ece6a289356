# `make` alone lists the targets. PYTHON= picks the interpreter, VENV= the environment's folder.
PYTHON ?= python3
VENV ?= .venv

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

TABLES := table1 table2 table3 table4 table5 table6 schedules leaderboard
FIGURES := figure2 overview pareto speed depth tokens_per_layer

.PHONY: help setup demo test test-all test-package test-examples lint format docs package bench bench-plots bench-gpu \
	tables figures claims theory reliability distributed $(TABLES) $(FIGURES) clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+( [a-z-]+)*:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## create .venv and install the package with the tested versions
	@:

# torch goes first and alone: pip then keeps the build of the pinned version that it is set up to find (CPU or CUDA).
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("adaptive-retention needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; choose another one with make setup PYTHON=python3.11")'
	@echo "Installing into $(VENV) (some minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) torch
	@$(PIP_INSTALL) --editable '.[dev,docs]'
	@touch $@

demo: setup ## train and compare on the built-in task: no download, no GPU
	$(BIN)/retention run

test test-all test-package test-examples: export HF_HUB_OFFLINE := 1

test: setup ## run the fast tests
	$(BIN)/python -m pytest -m "not slow" -n 2

test-all: setup ## run every test, including the slow ones
	$(BIN)/python -m pytest -n 2

test-package: setup ## build the wheel, install it into new environments and use it there
	$(BIN)/python -m pytest tests/packaging

theory: setup ## check the paper's theory on small instances (minutes); writes records and docs/theory.md
	$(BIN)/python -m reproduction theory

reliability: export HF_HUB_OFFLINE := 1
reliability: export OMP_NUM_THREADS := 1
reliability: setup ## try faulty inputs, kills, threads and load (an hour); writes records and docs/reliability.md
	$(BIN)/python -m reproduction reliability

distributed: export HF_HUB_OFFLINE := 1
distributed: export OMP_NUM_THREADS := 1
distributed: setup ## train on two processes and check the results (a quarter of an hour); for docs/reliability.md
	$(BIN)/python -m reproduction.distributed
	$(BIN)/python -m reproduction readme

test-examples: setup ## run the examples and the code in the documents
	$(BIN)/python -m pytest tests/examples tests/docs -n 2

lint: setup ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## sort imports, apply the fixes of ruff, format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

package: setup ## build wheel and source distribution into dist/
	$(BIN)/python -m build --no-isolation

bench: setup ## measure speed against the dense model on this machine
	$(BIN)/retention bench

bench-plots: setup ## draw the speed records (PNG and SVG in outputs/speed)
	$(BIN)/retention bench-plots

bench-gpu: setup ## speed and memory on a GPU; SMALL=1 tries it on the CPU
	PYTHON=$(BIN)/python scripts/bench_gpu.sh

tables: setup ## the paper's tables and the leaderboard, from records (one: make table1 ... table6, leaderboard)
	$(BIN)/python -m reproduction $@

figures: setup ## Figure 2 and others, from records (one: make figure2, overview, pareto, speed, depth, tokens_per_layer)
	$(BIN)/python -m reproduction $@

claims: setup ## docs/claims.md: each claim of the paper with a verdict, from committed records alone
	$(BIN)/python -m reproduction $@

$(TABLES) $(FIGURES): setup
	$(BIN)/python -m reproduction $@

clean: ## delete caches and build results (never results/, outputs/ or the environment)
	@rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	@find run.py conf scripts src tests reproduction examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
