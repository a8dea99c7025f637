# Two commands do everything on a machine with Python 3.11 or newer (venv and pip), git and make: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: setup demo test check bench format clean

setup: $(INSTALLED)  ## the environment, with everything for training and development

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[train,postgres,dev]"
	touch $@

demo: $(INSTALLED)  ## the main job; the last line is one JSON object, the report is in runs/demo/ppo/report.html
	@$(BIN)/manners demo --run runs/demo $(ARGS)

test: $(INSTALLED)  ## all tests; set MANNERS_DATA to a folder of real judgements to test on those as well
	$(BIN)/python -m pytest -n 2 $(ARGS)

check: $(INSTALLED)  ## lint, format, types, import floors
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## seconds of each part of a PPO step on this machine
	$(BIN)/python benchmarks/ppo_step.py

format: $(INSTALLED)
	$(BIN)/ruff check --fix src tests
	$(BIN)/ruff format src tests

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
