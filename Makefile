# The two commands: `make study` shows the main job, `make test` checks everything.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: study test check docs bench install clean

study: .venv/lab        ## train and compare four arms on scikit-learn's digits, about two minutes
	$(BIN)/convprior study --preset digits

test: check             ## lint, types, every test, the documentation
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

check: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/dev         ## the documentation, in docs/_build/html
	$(BIN)/sphinx-build --fail-on-warning --keep-going -b html docs docs/_build/html

bench: .venv/dev        ## measure again what benchmarks/*.json says
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

install: .venv/dev      ## the development environment

.venv/lab: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "convprior needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "installing into .venv (PyTorch is large: a few minutes the first time)"
	$(INSTALL) pip
	$(INSTALL) --editable '.[lab]'
	@touch $@

.venv/dev: .venv/lab
	$(INSTALL) --editable '.[lab,timm,kernels]' --group dev
	@touch $@

clean:                  ## remove what was built; studies in runs/ stay
	rm -rf .venv build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
