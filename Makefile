# Every target sets up what it needs by itself: a virtual environment in .venv with the versions of constraints.txt.
# Three tiers: `make test` for everyone, `make check` for what CI asks of a change, `make soak` by hand. CONTRIBUTING.md
# says what is in them.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
INSTALLED := .venv/installed
DEMO ?= demo
# Where `make benchmarks` finds real data as records: hannover, vqa_rad and tofu; what is absent is left out.
DATA ?= data
# Processes that share the tests, a file at a time.
WORKERS ?= 2
# COVERAGE=1 measures which lines the tests run, in every process that they start; `make coverage` tells.
COVERAGE ?=
PYTEST := $(BIN)/python -m $(if $(COVERAGE),coverage run -m )pytest

.PHONY: demo test check soak slow lint types imports coverage docs wheels fuzz mutation load benchmarks clean

demo: $(INSTALLED)
	$(BIN)/chip demo $(DEMO)
	cd $(DEMO) && $(BIN)/chip edit model --forget patient_123 --force
	$(BIN)/python examples/ask.py $(DEMO)/model $(DEMO)/model-forgotten --data $(DEMO)/records --node patient_123

# What everyone runs, within 15 minutes on two cores.
test: $(INSTALLED)
	$(if $(COVERAGE),rm -rf build/coverage)
	$(PYTEST) tests -m "not slow" --numprocesses $(WORKERS) --dist loadfile

# What a change must pass, within an hour: the tests once, measured, and all that is no test.
check:
	$(MAKE) lint types imports
	$(MAKE) test COVERAGE=1
	$(MAKE) slow coverage
	$(MAKE) docs wheels fuzz

# By hand, for hours, before a release; what comes of it is committed under benchmarks/results.
soak:
	$(MAKE) fuzz TIMES=20
	$(MAKE) mutation load

# Whole runs: the benchmark from end to end, the commands of README and docs/ to the letter.
slow: $(INSTALLED)
	$(BIN)/python -m pytest tests -m slow --numprocesses $(WORKERS) --dist loadgroup

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Types and import rules are checked on what a wheel installs, where kernels/ and examples/hospital/ lie inside chip.
types: build/wheel
	cd build/wheel && $(BIN)/mypy --config-file ../../pyproject.toml -p chip

imports: build/wheel
	cd build/wheel && $(BIN)/lint-imports --config ../../pyproject.toml

build/wheel: $(INSTALLED) FORCE
	rm -rf build/wheel build/lib build/bdist.*
	$(BIN)/pip install --quiet --no-deps --target build/wheel .

# Of the tests that ran with COVERAGE=1: fails below what pyproject.toml asks for.
coverage: $(INSTALLED)
	$(BIN)/coverage combine --keep --quiet
	$(BIN)/coverage report --skip-covered

# Source archive and wheels as a release would have them, installed where nothing else is.
wheels: $(INSTALLED)
	$(BIN)/python tests/wheels.py build/dist

# What docs/ says, built; in build/site.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# TIMES 50,000 hostile inputs, others where SEED is another; `make test` tries a tenth.
TIMES ?= 1
SEED ?= 1
fuzz: $(INSTALLED)
	FUZZ_TIMES=$(TIMES) FUZZ_SEED=$(SEED) $(BIN)/python -m pytest tests/test_fuzz.py --numprocesses $(WORKERS)

# Do the tests notice when the arithmetic is changed?
mutation: $(INSTALLED)
	$(BIN)/python benchmarks/mutation.py

# Many records, many requests.
load: $(INSTALLED)
	$(BIN)/python benchmarks/load.py

benchmarks: $(INSTALLED)
	$(BIN)/python benchmarks/real.py --data $(DATA)
	$(BIN)/python benchmarks/hospital.py
	$(BIN)/python benchmarks/variants.py
	$(BIN)/python benchmarks/frontier.py
	$(BIN)/python benchmarks/collect.py
	$(BIN)/python benchmarks/solve.py
	$(BIN)/python benchmarks/tune.py
	$(BIN)/python benchmarks/kernels.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(INSTALLED)

clean:
	rm -rf .venv build $(DEMO)

FORCE:
