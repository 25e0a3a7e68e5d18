# Every target makes what it needs on a fresh machine that has Python >= 3.11, pip, make and git; nothing is installed by hand.
# What is installed is written down: constraints/locked.txt, exact versions; `make lock` is the one way to change them.
#
#   make demo TORCH="torch==2.9.0"         another torch: any arguments of `pip install`
#   make test PYTHON=python3.12            another interpreter
#   make test JOBS=8                       more test processes

PYTHON ?= python3
JOBS   ?= 2
LOCKED := constraints/locked.txt
OLDEST := constraints/oldest.txt
VISION := constraints/vision.txt
EXTRAS := constraints/extras.txt
LOCKED_TORCH := $(shell grep '^torch==' $(LOCKED))
TORCH  ?= $(LOCKED_TORCH)
# Another torch than the locked one is let in, with the torchvision that fits it and the sympy that it asks for.
ALLOW := $(if $(filter $(LOCKED_TORCH),$(TORCH)),cat,grep -hvE '^(torch|torchvision|sympy)==')

PIP := -m pip install -qq --disable-pip-version-check
TRAIN := --no-build-isolation -e ".[train]"
ALL := --no-build-isolation -e ".[train,qa,eval,dev]"
BIN := .venv/bin
MIN := .venv-min
NEW := .venv-newest
VIS := .venv-vision
EXT := .venv-extras
# One thread per process: the small models of the tests lose time to more. What is compiled is kept for all that start.
ONE := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1
RUN := $(ONE) $(BIN)/python -m pytest

# Where our code meets the libraries: what other versions of them can change. The rest are files, words and refusals of
# our own, which the locked versions alone are asked about.
COMMANDS := create embed evaluate finetune generate_qa pretrain
MEETING := $(addprefix tests/,modeling_coma golden hub trainers $(addprefix hub_scripts/,hub mteb embedding tiny) \
	hub_scripts/serving/test_endpoint.py $(COMMANDS:%=hub_scripts/test_%.py))

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-studies test-distributed test-gpu test-min test-vision test-extras test-newest lock lint check format hooks benchmarks study clean
.DELETE_ON_ERROR:

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | awk -F'\t' '{printf "make %-18s%s\n", $$1, $$2}'

# $(call environment,FOLDER,FILES OF CONSTRAINTS): a new environment with the torch chosen above, first, so that it stays.
environment = $(PYTHON) -m venv --clear $(1) && $(ALLOW) $(2) > $(1)/constraints.txt \
	&& $(1)/bin/python $(PIP) -c $(1)/constraints.txt setuptools $(TORCH)

# An environment is complete when its stamp is there, and is made anew when its versions change.
.venv/.torch: $(LOCKED)
	@echo "$@: installing $(TORCH), once"
	@$(call environment,.venv,$(LOCKED))
	@touch $@

.venv/.train: .venv/.torch setup.py
	@echo "$@: installing what training needs, once"
	@$(BIN)/python $(PIP) -c .venv/constraints.txt $(TRAIN)
	@touch $@

.venv/.dev: .venv/.torch setup.py
	@echo "$@: installing what training, evaluation and development need, once"
	@$(BIN)/python $(PIP) -c .venv/constraints.txt $(ALL)
	@touch .venv/.train $@

# $(call layer,FOLDER,FILES OF CONSTRAINTS): an environment on top of .venv, whose libraries it sees where it has none of
# its own, pip too: what comes on top is all that is installed.
libraries_of = $$($(1)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
layer = $(BIN)/python -m venv --clear --without-pip $(1) && $(ALLOW) $(2) > $(1)/constraints.txt \
	&& echo "$(call libraries_of,.venv)" > "$(call libraries_of,$(1))/beneath.pth"

# The other end of the supported range: the lower bounds of setup.py. torch is the one chosen above.
$(MIN)/.dev: $(OLDEST) setup.py
	@echo "$@: installing the oldest supported versions, once"
	@$(call environment,$(MIN),$(OLDEST))
	@$(MIN)/bin/python $(PIP) -c $(MIN)/constraints.txt $(ALL)
	@touch $@

# torchvision goes with one torch alone; named beside it, torch stays.
with_vision = $(1)/bin/python $(PIP) -c $(2) $(TORCH) --no-build-isolation -e ".[train,qa,eval,dev,vision,video]"

$(VIS)/.dev: .venv/.dev $(VISION)
	@echo "$@: installing torchvision on top of .venv, once"
	@$(call layer,$(VIS),$(LOCKED) $(VISION))
	@$(call with_vision,$(VIS),$(VIS)/constraints.txt)
	@touch $@

# The heavy extras come on top, and before what is locked: Gradio takes no newest Pillow.
with_extras = $(1)/bin/python $(PIP) -c $(2) --no-build-isolation -e ".[train,qa,eval,dev,scale,index,app,browser]"

$(EXT)/.dev: .venv/.dev $(EXTRAS)
	@echo "$@: installing Ray, LanceDB and Gradio on top of .venv, once"
	@$(call layer,$(EXT),$(LOCKED))
	@sed 's/==.*/==/; s/^/^/' $(EXTRAS) | grep -vf - $(EXT)/constraints.txt | cat - $(EXTRAS) > $(EXT)/extras.txt
	@$(call with_extras,$(EXT),$(EXT)/extras.txt)
	@touch $@

# What an environment has, as constraints; of torch and torchvision without the name of their build.
freeze = $(1)/bin/python -m pip freeze --all --exclude-editable \
	| sed -E '/^pip==/d; s/^(torch(vision)?==[0-9.]+)\+.*/\1/'
# The lower bounds of setup.py.
bounds = sed -nE '/"torch>=/d; s/^ *"([A-Za-z0-9-]+)[>=]=([0-9.]+).*/\1==\2/p' setup.py

lock:  ## write constraints/: the newest versions that setup.py allows, and the oldest; another torch by TORCH=
	@$(call environment,.venv-lock,/dev/null)
	@.venv-lock/bin/python $(PIP) $(ALL)
	@$(call freeze,.venv-lock) > .venv-lock/newest.txt
	@$(call with_vision,.venv-lock,.venv-lock/newest.txt)
	@$(call freeze,.venv-lock) | grep -vxFf .venv-lock/newest.txt > .venv-lock/vision.txt
	@$(call environment,.venv-lock-oldest,/dev/null)
	@$(bounds) > .venv-lock-oldest/bounds.txt
	@.venv-lock-oldest/bin/python $(PIP) -c .venv-lock-oldest/bounds.txt $(ALL)
	@$(call freeze,.venv-lock-oldest) > $(OLDEST)
	@$(call environment,.venv-lock-extras,/dev/null)
	@$(call with_extras,.venv-lock-extras,/dev/null)
	@$(call freeze,.venv-lock-extras) | grep -vxFf .venv-lock/newest.txt > $(EXTRAS)
	@mv .venv-lock/newest.txt $(LOCKED)
	@mv .venv-lock/vision.txt $(VISION)
	@rm -rf .venv-lock .venv-lock-oldest .venv-lock-extras

install: .venv/.dev  ## the environment in .venv with everything for training, evaluation and development

demo: .venv/.train  ## train both stages on real images, evaluate on an unseen drawing style, save, reload
	@$(BIN)/coma demo

test: .venv/.dev  ## the default tests: offline, CPU
	@$(RUN) -n $(JOBS) --dist loadfile

# pytest fails where it selects no test, and should; so it is not asked for a marker that no test bears.
marked = if grep -rqE "mark\.$(1)\b" tests; then $(RUN) -m "$(2)" $(3); else echo "there is no test marked '$(1)'"; fi

# In the order of the files: by the number of their tests, the longest trainings would begin last.
test-slow: .venv/.dev  ## the tests that take minutes
	@$(call marked,slow,slow and not distributed and not gpu and not extras,-n $(JOBS) --dist loadfile --no-loadscope-reorder)

test-studies: .venv/.dev  ## the tutorial, and the long benchmarks in their quick forms; CI has no time for them
	@$(call marked,study,study)

test-distributed: .venv/.dev  ## the tests that start several processes
	@$(call marked,distributed,distributed and not gpu,-n $(JOBS) --dist loadfile)

test-gpu: .venv/.dev  ## the tests that need an accelerator
	@export CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES-0}; $(call marked,gpu,gpu)

test-min: $(MIN)/.dev  ## the default tests of what meets the libraries, with the oldest supported versions
	@$(ONE) $(MIN)/bin/python -m pytest $(MEETING) -n $(JOBS) --dist loadfile

# Any family of any file can be the next one, so that the processes end together.
test-vision: $(VIS)/.dev  ## the tests over backbone families, with torchvision
	@$(ONE) $(VIS)/bin/python -m pytest tests/families -n $(JOBS) --dist loadfile

test-extras: $(EXT)/.dev  ## the tests that need Ray, LanceDB or Gradio, and a Chromium
	@$(ONE) $(EXT)/bin/python -m pytest -m extras -n $(JOBS) --dist loadfile

# The newest versions are looked for anew every time, and what has moved is installed on top of .venv.
test-newest: .venv/.dev  ## the same with the newest versions that setup.py allows; says which libraries moved
	@echo "$(NEW): installing the newest versions"
	@$(call layer,$(NEW),/dev/null)
	@$(NEW)/bin/python $(PIP) --upgrade --upgrade-strategy eager $(TORCH) $(ALL)
	@$(call freeze,$(NEW)) > $(NEW)/versions.txt
	@echo "locked (<) and newest (>) versions that differ:"; diff $(LOCKED) $(NEW)/versions.txt | grep '^[<>]' || echo none
	@$(ONE) $(NEW)/bin/python -m pytest $(MEETING) -n $(JOBS) --dist loadfile

lint: .venv/.dev  ## lint and formatting
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

check: lint  ## the same and the house rules
	@$(BIN)/python -m pytest -q tests/test_house.py

format: .venv/.dev  ## mend what ruff can mend
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

hooks: .venv/.dev  ## run the checks before every commit
	@$(BIN)/pre-commit install

benchmarks: .venv/.dev  ## every benchmark, one after the other
	@set -e; for name in compression_step contrastive_step loading qa_generation search; do \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done

study: .venv/.dev  ## the experiments of docs/experiments.md: hours of processor time, resumable
	@set -e; for name in claim contrastive late pooling rerank; do $(BIN)/python -m benchmarks.emoji_study $$name; done
	@$(BIN)/python -m benchmarks.emoji_study.diagnostics

clean:  ## remove the environments and what tools left behind
	rm -rf .venv .venv-lock .venv-lock-oldest .venv-lock-extras $(MIN) $(NEW) $(VIS) $(EXT) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
