# The same few words everywhere. Plain `make` checks and tests.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: all install demo test slow check lint format bench clean
all: check test

.venv/bin/python:
	$(PYTHON) -m venv .venv

# torch alone, and only from PyTorch's own index, since PyPI's build for Linux brings gigabytes of CUDA. Where that index
# does not answer, pip takes what its own settings name (find-links, extra-index-url), or ends.
.stamp-install: .venv/bin/python pyproject.toml constraints.txt $(wildcard native/*)
	$(PIP) --no-deps --retries 1 --timeout 10 --index-url https://download.pytorch.org/whl/cpu torch
	$(PIP) --editable ".[plot,parquet,serve]" && touch $@

.stamp-dev: .stamp-install
	$(PIP) --editable ".[dev]" && touch $@

install: .stamp-install

demo: .stamp-install
	$(BIN)/python examples/demo/run.py demo

# A worker on each core, of one thread: two that share both cores would wait for each other at every barrier.
test: .stamp-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile

slow: .stamp-dev
	$(BIN)/python -m pytest -m slow --timeout 1800

check: .stamp-dev
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/pyright

lint: check

format: .stamp-dev
	$(BIN)/ruff check --fix && $(BIN)/ruff format

bench: .stamp-dev
	$(BIN)/python benchmarks/train_vs_peft.py

clean:
	rm -rf .venv .stamp-* .pytest_cache .ruff_cache .hypothesis demo lab
