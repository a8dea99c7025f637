# Two commands do everything on a machine with Python 3.11 or newer (venv and pip), git and make: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: setup demo test test-long check bench bench-quick format clean

setup: $(INSTALLED)  ## the environment, with everything for training and development

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[train,postgres,dev]"
	touch $@

demo: $(INSTALLED)  ## the main job; the last line is one JSON object, the report is in runs/demo/ppo/report.html
	@$(BIN)/manners demo --run runs/demo $(ARGS)

test: $(INSTALLED)  ## all tests; set MANNERS_DATA to a folder of real judgements to test on those as well
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-long: $(INSTALLED)  ## load, kills, every page in a browser, many odd requests; minutes, with figures at the end
	-npm install --silent --no-fund --no-audit --prefix $(VENV)/node axe-core@4
	.ci/postgresql $(BIN)/python -m pytest -m long $(ARGS)

check: $(INSTALLED)  ## lint, format, types, import floors
	$(BIN)/ruff check src tests benchmarks runs
	$(BIN)/ruff format --check src tests benchmarks runs
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## how fast it is beside the peers, each in an environment of its own; the last line is one JSON object
	$(BIN)/python benchmarks/speed/bench.py $(ARGS)

bench-quick: $(INSTALLED)  ## the same table from smaller work, in under 15 minutes on two cores
	$(BIN)/python benchmarks/speed/bench.py --quick $(ARGS)

format: $(INSTALLED)
	$(BIN)/ruff check --fix src tests benchmarks runs
	$(BIN)/ruff format src tests benchmarks runs

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
