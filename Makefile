# Thin: every target is one line that calls a program. `make` lists them. Each does the set-up that it needs.
PYTHON ?= python3
PROFILE ?= laptop
BUDGET_HOURS ?= $(if $(filter laptop,$(PROFILE)),5,2)
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(8, os.cpu_count() or 1))')
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
BIN := .venv/bin
READY := .venv/.ready
SEXTET := $(BIN)/sextet
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
BENCH := $(UV) run --quiet --no-sync --with-requirements benchmarks/speed/requirements.txt python -m benchmarks.speed
FAIRSEQ := .venv-fairseq
FAIRSEQ_PYTHON ?= 3.12

.DEFAULT_GOAL := help
.PHONY: help setup test test-slow test-fairseq test-faults test-report fuzz mutate docs coverage lint types format standalone reproduce reproduce-cdfsl reproduce-vtab report bench scaling check check-quick plan clean

help: ## this list
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 24

$(UV):
	$(PYTHON) -m venv .uv && .uv/bin/pip install --quiet uv

$(READY): pyproject.toml shared/pyproject.toml benchmarks/pyproject.toml $(wildcard packages/*/pyproject.toml) | $(UV)
	$(UV) sync --quiet && touch $@

setup: $(READY) ## everything installed in .venv (about 5 GB, a minute or two the first time)

reproduce: $(READY) ## all tables; PROFILE=laptop|overnight|gpu|paper, WORKERS=n at a time (laptop: under two hours on 2 cores)
	$(SEXTET) run all --profile $(PROFILE) --workers $(WORKERS) --budget-hours $(BUDGET_HOURS)

reproduce-%: $(READY) ## one paper (reproduce-fslstm) or one table (reproduce-fslstm-glyphs)
	$(SEXTET) run $* --profile $(PROFILE) --workers $(WORKERS)

reproduce-cdfsl: $(READY) ## the main tables of cdfsl-ata with PROFILE=paper; at laptop size their stand-in, all its tables
	$(SEXTET) run $(if $(filter paper,$(PROFILE)),cdfsl-1shot cdfsl-5shot,cdfsl-ata) --profile $(PROFILE) --workers $(WORKERS)

reproduce-vtab: $(READY) ## VTAB-1K with PROFILE=paper; at laptop size its stand-in, all tables of bi-adapter
	$(SEXTET) run $(if $(filter laptop,$(PROFILE)),bi-adapter,vtab) --profile $(PROFILE) --workers $(WORKERS)

plan: $(READY) ## what `make reproduce` would run, how long it takes, which data it needs
	$(SEXTET) plan all --profile $(PROFILE)

report: $(READY) ## runs/report/report.html from all results that are here
	$(SEXTET) report all --profile $(PROFILE)

data-%: $(READY) ## fetch one dataset (data-glyphs, data-mnist, ...); `sextet data list` names them
	$(SEXTET) data fetch $*

test: $(READY) ## the tests (under 5 minutes on 2 cores)
	$(PYTEST) -n 2 -m "not slow and not network and not gpu" --hypothesis-profile=ci

test-slow: $(READY) ## the slow tests and those that download (about 10 minutes)
	$(PYTEST) -m "slow or network or gpu"

test-fairseq: | $(UV) ## the fairseq plug-in in real fairseq runs, in an environment of its own (about 3 minutes on Python 3.12; FAIRSEQ_PYTHON=path of one)
	test -x $(FAIRSEQ)/bin/python || $(UV) venv --quiet --python $(FAIRSEQ_PYTHON) $(FAIRSEQ) || $(UV) venv --quiet $(FAIRSEQ)
	$(UV) pip install --quiet --python $(FAIRSEQ)/bin/python ./shared "./packages/nat-crf[fairseq]" pytest
	$(FAIRSEQ)/bin/python -m pytest -c /dev/null --rootdir packages/nat-crf packages/nat-crf/tests/fairseq_runs

test-faults: $(READY) ## every trainer killed, stopped, starved and poisoned, in processes of its own (under 10 minutes)
	$(PYTEST) -v benchmarks/faults --junitxml=runs/faults.xml
	$(BIN)/python tools/evidence.py faults runs/faults.xml

fuzz: $(READY) ## every parser on damaged files for 30 s (about 16 minutes); FUZZ="--seconds 5 idx mat"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fuzz $(FUZZ)

mutate: $(READY) ## which changes to the equations the tests do not notice (an hour), or FILE=path.py TESTS="tests/test_path.py ..."; MUTATE="--seed 1"
	OMP_NUM_THREADS=1 $(BIN)/python tools/mutate.py $(MUTATE) $(FILE) $(TESTS)

test-report: $(READY) ## the report in headless Chromium (needs chromium and chromedriver; else skipped)
	$(UV) sync --quiet --inexact --group report
	$(PYTEST) benchmarks/tests/test_report_browser.py

docs: | $(UV) ## the documentation as a site, in runs/site
	NO_MKDOCS_2_WARNING=1 $(UV) run --quiet --no-project --with-requirements docs/requirements.txt mkdocs build --quiet

coverage: $(READY) ## the tests with branch coverage
	$(PYTEST) -n 2 -m "not network and not gpu" --hypothesis-profile=ci --cov --cov-report=term --cov-report=json:runs/coverage.json
	$(BIN)/python tools/evidence.py coverage runs/coverage.json

lint: $(READY) ## ruff, and whether the generated parts of README and docs are current
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(SEXTET) readme --check
	$(BIN)/python tools/licences.py --check

types: $(READY) ## pyright
	$(BIN)/pyright

format: $(READY) ## ruff, mending what it can
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

standalone: $(READY) ## every package alone: from its wheel, and by plain pip from the checkout (about 3 minutes)
	$(BIN)/python tools/standalone.py --uv $(UV)

bench: $(READY) | $(UV) ## speed side by side with other formulations, one thread (up to an hour, on an idle machine)
	$(BENCH).fslstm --out runs/speed/fslstm.json
	$(BENCH).nat_crf --out runs/speed/nat_crf.json
	$(BENCH).nat_crf_translation --out runs/speed/nat_crf_translation.json
	$(BENCH).nat_crf_lengths --out runs/speed/nat_crf_lengths.json
	$(BENCH).bi_adapter --out runs/speed/bi_adapter.json
	$(BENCH).cdfsl_ata --out runs/speed/cdfsl_ata.json
	$(BENCH).infocl --out runs/speed/infocl.json
	$(BENCH).lmim --out runs/speed/lmim.json

scaling: $(READY) ## how time and memory grow with n, T, V, adapters, episodes, one thread (about 5 minutes, on an idle machine)
	$(BIN)/python -m benchmarks.speed.scaling --out runs/speed/scaling.json
	$(BIN)/python tools/evidence.py scaling runs/speed/scaling.json

check: $(READY) ## whether what was measured here still says what was published
	$(SEXTET) check

check-quick: $(READY) ## the same on a small part that is run again (about 2 minutes)
	$(SEXTET) check --quick

clean: ## remove what was made here (environment, runs), not the datasets
	rm -rf .venv .uv $(FAIRSEQ) runs dist
