# The commands of the README.  `make` alone lists them.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 5000
PROFILE ?= full
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help install install-tested lock quickstart reproduce-table lint check test test-cpu test-outside gpu-check ui server browse clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(READY)  ## make .venv and install the project with what it needs

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 to 3.13 is needed: make PYTHON=python3.12 …"; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || \
		{ echo "error: $(PYTHON) -m venv $(VENV) failed. Debian and Ubuntu have it in a package of its own: apt install python3-venv"; exit 2; }
	@echo "installing into $(VENV): PyTorch is large, this takes minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# Complete, so nothing is resolved. It fits the Python and the system that it was made on.
install-tested:  ## the same with exactly the versions that the tests ran with (requirements-tested.txt)
	@$(PYTHON) -c 'import platform, sys; \
	    own = f"# Python {sys.version_info[0]}.{sys.version_info[1]}.", f" on {platform.system()} {platform.machine()}."; \
	    line = open("requirements-tested.txt").read().splitlines()[1]; \
	    sys.exit(0 if line.startswith(own[0]) and own[1] in line else \
	    f"error: requirements-tested.txt is for another Python or system: {line[2:]} Type: make install")' || exit 2
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): PyTorch is large, this takes minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-tested.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

lock: $(READY)  ## write requirements-tested.txt from the environment, after every test has passed in it
	@$(BIN)/python -m experiments.house.tested > requirements-tested.txt.partial && \
		mv requirements-tested.txt.partial requirements-tested.txt

quickstart: $(READY)  ## draw synthetic pedestrians, train on them, judge, draw figures: minutes on two cores
	@$(BIN)/python -m reid.train experiment=quickstart

reproduce-table: $(READY)  ## the published table: SEEDS=3, MINUTES=160, DRY_RUN=1 (plan only), FORCE=1, PROFILE=smoke or drawn (no data)
	@$(BIN)/python -m experiments.reproduce_table --profile $(PROFILE) \
		$(if $(SEEDS),--seeds $(SEEDS)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(filter-out 0,$(DRY_RUN)),--dry-run) $(if $(filter-out 0,$(FORCE)),--force) $(ARGS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# One process a core, each with one thread of PyTorch's; the tests of a file share what they have made.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

check: lint  ## while you work: ruff, mypy, the tests without the mark slow (90 seconds on two cores)
	$(PYTEST) -m 'not slow'

test: lint  ## before you hand over: ruff, mypy, every test (9 minutes on two cores)
	$(PYTEST) --durations=10

# What compares with golden numbers, or with plain code, as an old CPU computes it.
NUMERIC := losses retrieval test_distance.py engine/test_loop.py engine/test_optimizers.py judging/test_judge.py \
	data/test_augment.py data/test_batches.py models/test_model.py models/test_layout.py

test-cpu: $(READY)  ## the numeric tests without the vector units of this CPU, by two threads
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=2 $(BIN)/python -m pytest -n auto \
		$(addprefix tests/,$(NUMERIC))

# Properties of any data, here with many more examples and another seed each time.
DRAWN := data/test_any_batches.py data/test_any_names.py engine/test_any_stop.py retrieval/test_any_data.py

test-outside: $(READY)  ## trackers, served models, all backbones, sweeps on Slurm, the oldest packages allowed: installs 6 GB into .outside
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m outside --skips-fail tests/outside $(ARGS)
	REID_EXAMPLES=1000 $(PYTEST) $(addprefix tests/,$(DRAWN))

gpu-check: $(READY)  ## on a GPU: all that only a GPU can show, in at most eight minutes
	@$(BIN)/python -m experiments.gpu_check $(ARGS)

ui: $(READY)  ## the MLflow UI on http://127.0.0.1:5000 (PORT=… for another)
	@$(BIN)/python -m reid.ui --port $(PORT)

server: $(READY)  ## PostgreSQL and an MLflow server with users, on http://127.0.0.1:5000 (PORT=… for another)
	@$(BIN)/python -m experiments.server --port $(PORT) $(ARGS)

browse: $(READY)  ## look at what the newest model does: ranked lists, a map, doubted labels (ARGS="outputs/<run> …")
	@$(BIN)/python -m reid.browse $(ARGS)

clean:  ## remove what building and testing left; runs, data and the tracking store stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .outside tests/output
