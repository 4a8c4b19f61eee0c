# One command from a fresh clone: `make demo` (or `make test`) makes .venv first, once.

# An index with CPU wheels of torch, needed where the default index offers the CUDA build (PyPI on
# Linux): TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

# The first interpreter that is new enough. It is run, not only looked up: a version manager may
# have put a placeholder of that name there, which starts nothing.
PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

BIN := .venv/bin
SERVE := .venv-serve/bin
INPUTS := pyproject.toml packaging/constraints.txt packaging/constraints-serve.txt packaging/fbgemm-gpu-cpu/pyproject.toml tools/install.py
# demo, test and lint use the existing environment; if there is none, they make the CPU one.
READY := $(if $(wildcard .venv/.installed-cuda),.venv/.installed-cuda,.venv/.installed-cpu)

# Workers of pytest, and cells of the small study: one for each core, at most eight for the memory.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 1); echo $$((n < 8 ? n : 8)))
# Tests wait often, for the database's thread or a process they started: half as many more.
PYTEST := -m pytest -n $(shell n=$(JOBS); m=$$((n + n / 2)); echo $$((m < 8 ? m : n > 8 ? n : 8)))
# Quick tests write many small files, each made durable: on a disk that is most of their time, and in
# memory none. Theirs are 150 MB at most. Where shared memory has no 2 GiB left, or lets no script run
# (some containers), or TMPDIR names another place, it is that or /tmp.
SHARED_MEMORY = $(shell test -z "$$TMPDIR" && d=$$(mktemp -d /dev/shm/cadc-rec.XXXXXX 2>/dev/null) && \
	{ printf '\43!/bin/sh\n' >$$d/x && chmod +x $$d/x && $$d/x 2>/dev/null && \
	df -Pk /dev/shm | awk 'NR == 2 && $$4 > 2097152 { print "/dev/shm" }'; rm -r $$d; })
# Rounds of the speed guard.
REPEATS ?= 5

# Containers often set this; every process would then compile our files again.
unexport PYTHONDONTWRITEBYTECODE

# The folder with the public archives beside the checkout, unless the caller names another.
ifeq ($(origin CADC_REC_DATA),undefined)
ifneq ($(wildcard ../shared/data/.),)
test test-slow test-serve test-all: export CADC_REC_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: help install install-cuda install-serve demo test test-slow test-serve test-all test-faults study-smoke bench bench-guard lint style types format clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

install: .venv/.installed-cpu ## make .venv for a machine without a GPU
install-cuda: .venv/.installed-cuda ## make .venv with the CUDA builds of torch and fbgemm

install-serve: .venv-serve/.installed-serve ## make .venv-serve, where the service runs (no GPU needed)

.venv-serve/.installed-serve: $(INPUTS)
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found: install one, or name it with PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) tools/install.py serve --torch-index "$(TORCH_INDEX)"

.venv/.installed-%: $(INPUTS)
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found: install one, or name it with PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) tools/install.py $* --torch-index "$(TORCH_INDEX)"

demo: $(READY) ## run the whole job on a small generated dataset
	$(BIN)/cadc-rec run configs/demo.toml

test: $(READY) ## run the quick tests
	PYTEST_DEBUG_TEMPROOT="$${PYTEST_DEBUG_TEMPROOT:-$(SHARED_MEMORY)}" $(BIN)/python $(PYTEST) -m "not slow and not realdata"

test-slow: $(READY) ## run the slow tests and those on real data
	$(BIN)/python $(PYTEST) -m "slow or realdata"

test-faults: $(READY) ## run the tests that kill processes and damage files (part of test-slow)
	CADC_REC_FAULTS=work/faults.json $(BIN)/python $(PYTEST) tests/faults

test-serve: .venv-serve/.installed-serve ## run the tests of the service
	$(SERVE)/python $(PYTEST) tests/serving/http tests/export/test_triton.py

test-all: test test-slow test-serve bench-guard ## run every test, and the guard of speed

study-smoke: $(READY) ## run a small study of every method and write its page
	rm -rf work/study-smoke
	$(BIN)/cadc-rec study configs/study/smoke.toml --workdir work/study-smoke --jobs $(JOBS)
	$(BIN)/cadc-rec report work/study-smoke/studies/smoke

bench: $(READY) ## compare speed with other libraries (leave the machine idle)
	$(BIN)/python -m benchmarks.peers

bench-guard: $(READY) ## fail if a speed ratio is below benchmarks/baseline.json
	$(BIN)/python -m benchmarks.guard --workdir work/bench-guard --repeats $(REPEATS)

lint: style types ## check style and types

style: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY)
	$(BIN)/mypy

format: $(READY) ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove both environments and every cache (no data, no results)
	rm -rf .venv .venv-serve build dist *.egg-info packaging/*/build packaging/*/*.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
