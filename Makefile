# Every target sets up what it needs by itself: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
INSTALLED := .venv/installed
DEMO ?= demo
# Where `make benchmarks` finds real data as records: hannover, vqa_rad and tofu; what is absent is left out.
DATA ?= data
# Processes that share the tests, a file at a time.
WORKERS ?= 2

.PHONY: demo test slow lint types imports check benchmarks load clean

demo: $(INSTALLED)
	$(BIN)/chip demo $(DEMO)
	cd $(DEMO) && $(BIN)/chip edit model --forget patient_123 --force
	$(BIN)/python examples/ask.py $(DEMO)/model $(DEMO)/model-forgotten --data $(DEMO)/records --node patient_123

test: $(INSTALLED)
	$(BIN)/python -m pytest tests -m "not slow" --numprocesses $(WORKERS) --dist loadfile

# The benchmark from end to end: minutes, so it stands apart.
slow: $(INSTALLED)
	$(BIN)/python -m pytest tests -m slow

check: test slow lint types imports

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Types and import rules are checked on what a wheel installs, where kernels/ and examples/hospital/ lie inside chip.
types: build/wheel
	cd build/wheel && $(BIN)/mypy --config-file ../../pyproject.toml -p chip

imports: build/wheel
	cd build/wheel && $(BIN)/lint-imports --config ../../pyproject.toml

build/wheel: $(INSTALLED) FORCE
	rm -rf build
	$(BIN)/pip install --quiet --no-deps --target build/wheel .

benchmarks: $(INSTALLED)
	$(BIN)/python benchmarks/real.py --data $(DATA)
	$(BIN)/python benchmarks/hospital.py
	$(BIN)/python benchmarks/variants.py
	$(BIN)/python benchmarks/frontier.py
	$(BIN)/python benchmarks/collect.py
	$(BIN)/python benchmarks/solve.py
	$(BIN)/python benchmarks/tune.py
	$(BIN)/python benchmarks/kernels.py

load: $(INSTALLED)
	$(BIN)/python benchmarks/load.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(INSTALLED)

clean:
	rm -rf .venv build $(DEMO)

FORCE:
