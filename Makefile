# One command for the main job, one for the tests; each makes the environment first if it has to.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin

.PHONY: demo live test lint docs notebooks wheels clean

# A measured scan is shown as well where one is at hand: make demo MEASURED=scan.npz
MEASURED ?= $(firstword $(wildcard ../shared/data/siemens_star_aps.npz))

demo: $(READY)
	$(BIN)/ptychopinn demo --output-dir demo_output $(if $(MEASURED),--measured $(MEASURED))

# A simulated scan, replayed as a detector's stream, and the page that shows the image grow.
live: $(READY)
	mkdir -p live_output
	$(BIN)/ptychopinn simulate --output live_output/scan.npz --object siemens --probe zoneplate --step 8 --quiet
	$(BIN)/ptychopinn replay live_output/scan.npz --rate 40 --skew 2 --drop 0.01 --shuffle --quiet & \
	$(BIN)/ptychopinn live tcp://127.0.0.1:9999 --source simplon2 --positions tcp://127.0.0.1:9998 \
		--probe-file live_output/scan.npz --output-dir live_output/image --port 8765 --linger 60; status=$$?; wait; exit $$status

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
wheels:
	PYTHON=$(PYTHON) .ci/wheels

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo_output live_output site dist build
