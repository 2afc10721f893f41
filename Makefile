# make compare   which memory suits your text?     make compare FILES="a.txt b.txt" ARGS="--steps 600"
# make test      the tests, as CI runs them        make check   everything, slow
# Both install what they need into .venv on first use: only Python 3.11+ and make are asked for.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
FLA := flash-linear-attention==0.6.0 fla-core==0.6.0 einops==0.8.2
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
export PYTHONDONTWRITEBYTECODE = 1

.PHONY: compare test check sanitize fuzz mutate lint setup docs clean
.DEFAULT_GOAL := test

compare: $(VENV)/.run
	$(BIN)/ttr compare $(FILES) $(ARGS)

# Checking shapes as types makes every call several times slower, so only the tests of TYPED run with it.
TYPED := $(addprefix tests/test_,shapes.py dispatch.py worked.py layer.py linear_recurrence.py)

test: $(VENV)/.test lint
	TTR_TEST_TYPES=0 $(PYTEST) tests $(addprefix --ignore ,$(TYPED)) $(ARGS)
	$(PYTEST) $(TYPED) $(ARGS)

check: $(VENV)/.test lint sanitize
	TTR_TEST_TYPES=0 $(PYTEST) --full tests $(addprefix --ignore ,$(TYPED)) $(ARGS)
	$(PYTEST) --full $(TYPED) $(ARGS)

# The compiled kernels under the sanitizers of gcc: addresses, undefined behaviour, threads
sanitize: $(VENV)/.test
	TTR_TEST_TYPES=0 $(BIN)/python -m tests.sanitize

# Drawn calls, each equal to the definition or refused in a sentence: make fuzz ARGS="--seed 3 4 --calls 2000"
fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz $(ARGS)

# Faults drawn at random from changed files, which the tests must catch: make mutate ARGS="--since v0.3 --count 100 --seed 1"
mutate: $(VENV)/.test
	$(BIN)/python -m tests.mutate $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check --quiet src tests
	$(BIN)/ruff format --quiet --check src tests setup.py

setup: $(VENV)/.test

# An installed torch of the pinned version is used rather than fetched again.
$(VENV)/.base: constraints.txt
	@echo "Setting up $(VENV) (once, a few minutes) ..."
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "ttr needs Python 3.11 or newer; choose one with make PYTHON=..."'
	@if $(PYTHON) -c 'import torch; assert torch.__version__.split("+")[0] == "$(TORCH)"' 2>/dev/null; \
	then $(PYTHON) -m venv --system-site-packages $(VENV); else $(PYTHON) -m venv $(VENV); fi
	@$(PIP) torch==$(TORCH)
	@touch $@

SOURCES := $(VENV)/.base pyproject.toml setup.py $(wildcard src/ttr/engines/native/csrc/*)

$(VENV)/.run: $(SOURCES)
	@$(PIP) --editable '.[hf,cli]'
	@touch $@

# The package is installed already, so pip adds what the tests need and the kernels are compiled once. The
# originals that the parity tests compare with lie apart: installed beside transformers they change how its
# models run.
$(VENV)/.test: $(VENV)/.run
	@$(PIP) 'test-time-regression[test]'
	@rm -rf .parity && $(PIP) --no-deps --target .parity $(FLA)
	@touch $@

clean:
	rm -rf $(VENV) .parity build dist src/*.egg-info

docs: $(VENV)/.run
	$(BIN)/python -m ttr.documentation docs
