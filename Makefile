# Everything that needs only Python 3.11, git and make.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3

.PHONY: demo test test-live check format bench clean

# The tools of development, at the versions that were tested; made again when they change.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m tests.demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest --cov --cov-report=term

test-live: $(VENV)/.installed
	$(BIN)/python -m pytest --live

check: $(VENV)/.installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist .coverage* .pytest_cache .ruff_cache .hypothesis
