# Everything happens in .venv, which is made on first use: PYTHON names the interpreter (>= 3.11).
PYTHON ?= python3
PRESET ?= small
OUT ?= runs/quickstart
BIN := .venv/bin
# Of pyproject.toml: EXTRAS=dev,spark brings Spark, the second engine of STATE, too.
EXTRAS ?= dev

.PHONY: quickstart test thorough lint format types clean

# The stamp is newer than what it was made from, so a changed pin installs again. Only what is imported
# is worth compiling, which happens then.
INSTALLED := .venv/installed-$(EXTRAS)
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

quickstart: $(INSTALLED)
	$(BIN)/python -m experiments.quickstart --preset=$(PRESET) --out=$(OUT)

test: $(INSTALLED)
	$(BIN)/python -m pytest

thorough: $(INSTALLED)
	$(BIN)/python -m pytest -m "(thorough or long) and not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache
