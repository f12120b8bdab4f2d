# `make demo` shows the main job, `make test` sets up and runs all tests. Nothing else is needed but Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes run the tests, those that share engines in one of them.
PARALLEL := -n 2
IMAGE ?=

.PHONY: demo test fast lint bench clean

demo: $(VENV)/.installed
	@$(BIN)/python fixtures/demo.py $(IMAGE)

test: $(VENV)/.test
	$(BIN)/python tests/with_engine.py $(BIN)/pytest $(PARALLEL) $(PYTEST)

# Without an engine, in seconds.
fast: $(VENV)/.test
	$(BIN)/pytest $(PARALLEL) -m "not engine and not kernel" $(PYTEST)

lint: $(VENV)/.lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.test
	$(BIN)/python tests/with_engine.py $(BIN)/python -m benchmarks $(BENCH)

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.lint: $(VENV)/.made pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@ $(VENV)/.installed $(VENV)/.test

clean:
	rm -rf $(VENV) .demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
