# Two commands do all the set-up on a fresh machine with python 3.11 and make: `make quickstart` and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1
export OMP_WAIT_POLICY := PASSIVE
# What is imported is compiled then; compiling all of torch takes a fifth of an installation.
export PIP_NO_COMPILE := 1

.PHONY: install quickstart test test-slow test-faults lint bench gpu-bundle clean

install: $(INSTALLED)

# torch comes first and alone: building deepspeed imports it, and the constraint decides which build is taken. What
# builds comes next: constraints do not reach the environments that pip would make for builds.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt setuptools wheel ninja py-cpuinfo psutil packaging hatchling editables
	$(BIN)/pip install -q --no-build-isolation -c constraints.txt -e '.[dev]'
	touch $@

# Data, training, evaluation and export. Data that are there and a run that is finished are not made again.
quickstart: install
	$(BIN)/unified shards build glyphs data/glyphs --skip-existing
	$(BIN)/unified shards build digits data/digits --skip-existing
	$(BIN)/unified shards build documentation data/documentation --skip-existing
	$(BIN)/unified shards build computer_modern data/computer_modern --skip-existing
	$(BIN)/python train.py recipes/quickstart.yaml
	$(BIN)/unified eval runs/quickstart quickstart --shots 0 5 10 --seeds 5 --out runs/quickstart/results.json
	$(BIN)/unified export runs/quickstart out/quickstart

test: install
	$(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "not slow and not faults"

test-slow: install
	$(BIN)/pytest -q -m slow

test-faults: install
	$(BIN)/pytest -q -m faults

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m benchmarks

# What a machine without network lacks to run benchmarks/gpu.sh; versions of its Python: `make gpu-bundle GPU_PYTHONS=3.12`.
GPU_PYTHONS ?= 3.11 3.12
gpu-bundle: install
	$(BIN)/python -m benchmarks.gpu.bundle gpu-bundle --pythons $(GPU_PYTHONS)

clean:
	rm -rf .venv data runs out dist gpu-bundle
