# Each target makes what it needs. PYTHON picks the interpreter of a new .venv (3.11 or later).
PYTHON ?= python3
PROMPT ?= a red circle above a blue square
WORKERS ?= 2
TESTS ?=
export PROMPT  # through the environment, so that quotes in it reach tessera unharmed

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install generate serve test fuzz lint bench clean

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 12

install: $(INSTALLED)  ## .venv with tessera and everything to develop it; quick when nothing changed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tessera needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

generate: $(INSTALLED)  ## 4 pictures of PROMPT="..." in out/
	@$(BIN)/tessera generate "$$PROMPT" -n 4 -o out

serve: $(INSTALLED)  ## the web page, at http://127.0.0.1:7860/
	@$(BIN)/tessera serve

test: $(INSTALLED)  ## the whole suite, or TESTS="..." of it
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

fuzz: $(INSTALLED)  ## hostile files through every command, then 10,000 random command lines, recipes, prompts and requests
	$(BIN)/python -m tests.hostile

lint: $(INSTALLED)  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)  ## time and memory: first picture and start-up; a step beside its network; a step or run of each family at full size beside its peer
	$(BIN)/python benchmarks/generate.py
	$(BIN)/python -m benchmarks.sampler_overhead
	$(BIN)/python benchmarks/vq_step.py
	$(BIN)/python benchmarks/v_step.py
	$(BIN)/python benchmarks/absorbing_sampling.py
	$(BIN)/python benchmarks/versatile_step.py

clean:  ## removes .venv and caches; keeps out/ and runs/
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
