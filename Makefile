# One command for the main job, one for the tests; each makes the environment first if it has to.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin

.PHONY: demo test lint docs notebooks wheels clean

demo: $(READY)
	$(BIN)/ptychopinn demo --output-dir demo_output

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

notebooks: $(READY)
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python docs/tools/notebooks.py

# An sdist, a wheel out of it, and an image with what is installed from it in an environment of its own.
wheels: $(READY)
	PYTHON=$(PYTHON) .ci/wheels

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo_output site dist build
