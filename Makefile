# Two commands start everything: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A shared machine loses a factor of 4 to threads that spin.
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 0
# Tests start many processes; where an environment turns written bytecode off, each compiles all again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test test-all lint check real lab text bench chaos engines clean

setup: $(VENV)/.done

# torch comes first, by its exact version: where a CPU wheel of it is at hand, pip takes that one
# instead of gigabytes of CUDA packages.
$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "smorm needs Python 3.11 or newer: make PYTHON=python3.12 setup"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	rm -rf demo
	$(BIN)/smorm demo --output demo

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# All tests but those marked `slow`: whole studies, benchmarks, killed trainings, chaos.
test: setup
	$(PYTEST) -m 'not slow'

test-all: setup
	$(PYTEST)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

# The method against its baselines on real data, where ../shared/data (or DATA=...) is there.
DATA ?= ../shared/data
real: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.real --data $(DATA) --output results/real

# All methods on the generated world, eight seeds: about half an hour on two cores (docs/lab.md).
lab: setup
	$(BIN)/smorm lab experiments/lab/grid.yaml
	$(BIN)/python -m experiments.lab.account results/lab/numbers.csv --output results/lab/README.md

# The same methods on real text, from one small pretrained backbone: about as long again.
text: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.text --data $(DATA) --output results/text

# Hostile and unlucky situations, thousands of them: what may never happen (docs/chaos.md).
chaos: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m chaos --keep chaos-failed

# Speed and memory against what people use instead: minutes, one thread (docs/speed.md).
RUNS := results/bench
bench: export OMP_NUM_THREADS := 1
bench: setup
	mkdir -p $(RUNS)
	$(BIN)/python -m bench.training --json $(RUNS)/training.json
	$(BIN)/python -m bench.scoring --json $(RUNS)/scoring.json
	$(BIN)/python -m bench.results $(RUNS)/training.json $(RUNS)/scoring.json --output $(RUNS)
	$(BIN)/python -m bench.floors $(RUNS)/training.json $(RUNS)/scoring.json \
	  results/serving/serving.json --all

# Real vLLM on exports, and the real code of OpenRLHF, verl, LLaMA-Factory and TRL against
# `smorm serve`, each in an environment of its own: 6 GB (docs/engines.md).
engines: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m engines --output results/engines
	OMP_NUM_THREADS=1 $(BIN)/python -m engines.older_transformers --output results/engines/older.json

clean:
	rm -rf $(VENV) demo build dist *.egg-info
