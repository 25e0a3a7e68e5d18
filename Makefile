# Every target makes what it needs on a fresh machine that has Python >= 3.11, pip, make and git; nothing is installed by hand.
#
#   make demo TORCH="torch==2.9.0"         another torch: any arguments of `pip install`
#   make test PYTHON=python3.12            another interpreter
#   make test JOBS=8                       more test processes

PYTHON ?= python3
TORCH  ?= torch==2.13.0
JOBS   ?= 2

PIP := -m pip install -qq --disable-pip-version-check
BIN := .venv/bin
MIN := .venv-min
# One thread per process: the small models of the tests lose time to more.
ONE := OMP_NUM_THREADS=1
RUN := $(ONE) $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-distributed test-gpu test-min check format hooks benchmarks study clean
.DELETE_ON_ERROR:

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | awk -F'\t' '{printf "make %-18s%s\n", $$1, $$2}'

# An environment is complete when its stamp is there, and is brought up to date when setup.py changes.
# torch comes first, so that the version chosen above is the one that stays.
.venv/.torch:
	@echo "$@: installing $(TORCH), once"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python $(PIP) $(TORCH)
	@touch $@

.venv/.train: .venv/.torch setup.py
	@echo "$@: installing what training needs, once"
	@$(BIN)/python $(PIP) -e ".[train]"
	@touch $@

.venv/.dev: .venv/.torch setup.py
	@echo "$@: installing what training, evaluation and development need, once"
	@$(BIN)/python $(PIP) -e ".[train,eval,dev]"
	@touch .venv/.train $@

# The other end of the supported range: the lower bounds of setup.py, exactly. torch is the one chosen above.
$(MIN)/.dev: setup.py
	@echo "$@: installing the oldest supported versions, once"
	@$(PYTHON) -m venv $(MIN)
	@$(MIN)/bin/python $(PIP) $(TORCH)
	@sed -nE '/"torch>=/d; s/^ *"([A-Za-z0-9-]+)>=([0-9.]+),.*/\1==\2/p' setup.py > $(MIN)/constraints.txt
	@$(MIN)/bin/python $(PIP) -c $(MIN)/constraints.txt -e ".[train,eval,dev]"
	@touch $@

install: .venv/.dev  ## the environment in .venv with everything for training, evaluation and development

demo: .venv/.train  ## train both stages on real pictures, evaluate on an unseen drawing style, save, reload
	@$(BIN)/coma demo

test: .venv/.dev  ## the default tests: offline, CPU
	@$(RUN) -n $(JOBS) --dist loadfile

# pytest fails where it selects no test, and should; so it is not asked for a marker that no test bears.
marked = if grep -rqE "mark\.$(1)\b" tests; then $(RUN) -m "$(2)" $(3); else echo "there is no test marked '$(1)'"; fi

test-slow: .venv/.dev  ## the tests that take minutes
	@$(call marked,slow,slow and not distributed and not gpu,-n $(JOBS) --dist loadfile)

test-distributed: .venv/.dev  ## the tests that start several processes
	@$(call marked,distributed,distributed and not gpu)

test-gpu: .venv/.dev  ## the tests that need an accelerator
	@$(call marked,gpu,gpu)

test-min: $(MIN)/.dev  ## the default tests with the oldest supported versions
	@$(ONE) $(MIN)/bin/python -m pytest -n $(JOBS) --dist loadfile

check: .venv/.dev  ## lint, formatting and the house rules
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/python -m pytest -q tests/test_house.py

format: .venv/.dev  ## mend what ruff can mend
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

hooks: .venv/.dev  ## run the checks before every commit
	@$(BIN)/pre-commit install

benchmarks: .venv/.dev  ## every benchmark, one after the other
	@set -e; for name in compression_step contrastive_step loading qa_generation; do \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done

study: .venv/.dev  ## the experiments of docs/experiments.md: hours of processor time, resumable
	@set -e; for name in claim contrastive; do $(BIN)/python -m benchmarks.emoji_study $$name; done
	@$(BIN)/python -m benchmarks.emoji_study.diagnostics

clean:  ## remove the environments and what tools left behind
	rm -rf .venv $(MIN) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
