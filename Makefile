# The same few words everywhere. Plain `make` checks and tests.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
TORCH := $(shell sed -n 's/^torch==\([0-9.]*\).*/\1/p' locks/install.txt)
LOCKED := --require-hashes --no-deps --requirement
LOCK = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make lock" --upgrade --group build

.PHONY: all install demo test slow sanitize check lint format bench lock clean
all: check test

.venv/bin/python:
	$(PYTHON) -m venv .venv

# torch alone, and only from PyTorch's own index, since PyPI's build for Linux brings gigabytes of CUDA. Where that index
# does not answer, pip takes what its own settings name (find-links, extra-index-url), or ends. All else has the hashes of
# locks/; torch's hashes there are those of PyPI's builds, and pip leaves a torch of that version that is here already.
.stamp-install: .venv/bin/python pyproject.toml locks/install.txt $(wildcard native/*)
	$(PIP) --no-deps --retries 1 --timeout 10 --index-url https://download.pytorch.org/whl/cpu torch==$(TORCH)
	$(PIP) $(LOCKED) locks/install.txt
	$(PIP) --no-deps --no-build-isolation --editable . && touch $@

.stamp-dev: .stamp-install locks/dev.txt
	$(PIP) $(LOCKED) locks/dev.txt && touch $@

install: .stamp-install

demo: .stamp-install
	$(BIN)/python examples/demo/run.py demo

# A worker on each core, of one thread: two that share both cores would wait for each other at every barrier.
# TESTS names folders; none: all tests.
test: .stamp-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile $(TESTS)

slow: .stamp-dev
	$(BIN)/python -m pytest -m slow --timeout 1800

sanitize: .stamp-dev
	$(BIN)/python native/sanitize.py

check: .stamp-dev
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/pyright

lint: check

format: .stamp-dev
	$(BIN)/ruff check --fix && $(BIN)/ruff format

bench: .stamp-dev
	$(BIN)/python benchmarks/train_vs_peft.py

# The newest versions that pyproject.toml allows, with the hashes of all their files.
lock: .stamp-dev
	$(LOCK) --extra plot --extra parquet --extra serve --output-file locks/install.txt
	$(LOCK) --extra dev --constraint locks/install.txt --output-file locks/dev.txt
	$(LOCK) --extra clients --constraint locks/dev.txt --output-file locks/clients.txt

clean:
	rm -rf .venv .stamp-* .pytest_cache .ruff_cache .hypothesis demo lab
