# make quickstart   pre-train a small ViT on handwritten digits, from nothing, in minutes on a CPU
# make test         lint and the fast tests; make test-all adds the slow ones
# make setup        .venv with the tested versions; PYTHON=python3.12 make ... chooses the interpreter
# make clean        removes .venv and caches; runs/ stays

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# Exact versions where this Python was tested, the ranges of requirements.txt otherwise.
CONSTRAINTS := $(wildcard constraints-$(VERSION).txt)
READY := $(VENV)/ready-$(VERSION)
# A file's tests stay together, for they share what is compiled.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder

.PHONY: setup quickstart lint test test-all clean

setup: $(READY)

$(READY): requirements.txt requirements-test.txt $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit("repre_jax needs Python 3.11 or newer, not $(VERSION); PYTHON=python3.12 make ... chooses another.") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
	@touch $@

quickstart: setup
	$(BIN)/python main.py --config=configs/quickstart.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

test: lint
	$(PYTEST) -m "not slow" --durations=10

test-all: lint
	$(PYTEST) --durations=20

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
