# Two commands set a fresh machine up: `make quickstart` and `make test`. All they need is Python (3.10 or newer) and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# All environments are installed under the constraints, so that every machine has the same packages.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: quickstart test lint format docs bench clean

quickstart: $(VENV)/.demo-installed
	$(BIN)/openstory quickstart --dir quickstart

test: $(VENV)/.test-installed
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tables of docs/performance.md and docs/scale.md: two hours, and 25 GB in build/. BENCH=--quick tries it in some minutes.
bench: $(VENV)/.bench-installed
	mkdir -p build/bench
	$(BIN)/python -m benchmarks.loading clips $(BENCH) --markdown build/bench/clips.md
	$(BIN)/python -m benchmarks.loading masks $(BENCH) --markdown build/bench/masks.md
	$(BIN)/python -m benchmarks.loading keyframes $(BENCH) --markdown build/bench/keyframes.md
	$(BIN)/python -m benchmarks.loading.resume $(BENCH) --markdown build/bench/resume.md
	$(BIN)/python -m benchmarks.loading.first_batch $(BENCH) --markdown build/bench/first_batch.md
	$(BIN)/python -m benchmarks.loading.memory $(BENCH) --markdown build/bench/memory.md
	$(BIN)/python -m benchmarks.flintstones_build $(BENCH) --markdown build/bench/flintstones_build.md
	$(BIN)/python -m benchmarks.scale opening $(BENCH) --work build/bench --markdown build/bench/opening.md
	$(BIN)/python -m benchmarks.scale going-on $(BENCH) --work build/bench --markdown build/bench/going_on.md
	$(BIN)/python -m benchmarks.scale costs $(BENCH) --work build/bench --markdown build/bench/costs.md

docs: $(VENV)/.test-installed
	$(BIN)/python scripts/api_reference.py

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; make PYTHON=python3.x chooses one")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.test-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[test]'
	@touch $@

$(VENV)/.dev-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[test,dev]'
	@touch $@

# What these ask for in all (older releases than this package, CUDA, the clients of all clouds) cannot be had together;
# this is what they import when they read local files.
CONTENDERS := mosaicml-streaming brotli python-snappy cramjam zstd catalogue xattr cffi pycparser \
  litdata lightning-utilities obstore tifffile boto3 botocore s3transfer jmespath \
  megatron-energon multi-storage-client psutil rapidyaml deprecation filetype lark wcmatch bracex jsonschema \
  jsonschema-specifications referencing rpds-py opentelemetry-api opentelemetry-sdk opentelemetry-semantic-conventions
$(VENV)/.bench-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[bench]'
	$(PIP) --no-deps $(CONTENDERS)
	@touch $@

clean:
	rm -rf $(VENV) quickstart build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
