# Each target installs first where needed. PYTHON chooses the interpreter the environment is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: help install system quickstart test coverage bench check format lint types layers docs build clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## make .venv with everything in it

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[report,probe,inspect,serve,bench,export,ray,s3,docs,dev]'
	touch $(STAMP)

system: ## Chromium for the tests of the page, where this is Debian and we are root
	sh tests/system-packages.sh

quickstart: $(STAMP) ## videos -> pretrain -> finetune -> evaluate -> index -> search -> report, about 5 minutes
	$(BIN)/cmmixer quickstart

# Tests train very small networks beside decoder processes. A second thread would wait more than it computes, so each test process has one
# and waits without spinning. There are as many test processes as cores, two at most.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
TEST_PROCESSES ?= 2

test: $(STAMP) system ## run the tests
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal

# Left out: a test that limits the size of files stops coverage's own data file, too.
NOT_UNDER_COVERAGE := tests/data/test_prepare.py::TestCommand::test_a_file_size_limit_is_a_full_disk_for_prepare

coverage: $(STAMP) system ## run the tests with branch coverage: htmlcov/index.html
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal --cov --cov-report=term --cov-report=html --deselect $(NOT_UNDER_COVERAGE)

bench: $(STAMP) system ## measure speeds and write the tables; some minutes, with ALL=1 half an hour
	$(BIN)/python -m benchmarks.figures $(if $(ALL),--all)

check: format lint types layers docs test ## everything that must hold before a change lands

format: $(STAMP) ## is the code formatted?
	$(BIN)/ruff format --check src tests benchmarks examples docs

lint: $(STAMP) ## ruff
	$(BIN)/ruff check src tests benchmarks examples docs

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

layers: $(STAMP) ## does every module import only from lower layers?
	$(BIN)/lint-imports

docs: $(STAMP) ## the documentation as pages: docs/_build/html/index.html; a warning is a failure
	$(BIN)/sphinx-build --fresh-env --write-all -W --keep-going --quiet docs docs/_build/html

build: $(STAMP) ## a wheel and a source archive in dist/, checked in an empty environment
	rm -rf dist build
	$(BIN)/python -m build --quiet --outdir dist .
	sh tests/check-wheel.sh $(PYTHON)

clean: ## remove the environment and what the tools cache
	rm -rf $(VENV) build dist htmlcov .coverage docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
