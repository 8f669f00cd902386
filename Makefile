# `make help` lists the targets. Each sets up what it needs in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is installed: all that tests need, or what the demo needs alone.
STAMP := $(VENV)/.installed
DEMO := $(VENV)/.installed-demo

# Two OpenMP teams that spin on the same cores slow each other down.
export OMP_WAIT_POLICY = PASSIVE

.PHONY: help demo test test-slow check format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO)  ## make a clip with two manipulated seconds, scan it, compare with the truth
	$(BIN)/python -m examples.demo demo-out

# In three processes: a scan's runtimes (OpenVINO, ONNX Runtime, decoders) and a trainer that forks
# are never one program.
test: $(STAMP) check  ## run linters, types, import contracts and tests: under ten minutes
	$(BIN)/python -m pytest tests/video
	$(BIN)/python -m pytest tests/train
	$(BIN)/python -m pytest tests --ignore=tests/train --ignore=tests/video

test-slow: $(STAMP)  ## run the checks that take longer
	$(BIN)/python -m pytest -m slow

check: $(STAMP)  ## run linters, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## format the code and fix what linters can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(DEMO)

$(DEMO): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

clean:  ## remove .venv and built packages
	rm -rf $(VENV) demo-out build dist
