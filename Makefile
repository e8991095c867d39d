# Everything a newcomer needs: `make demo`, `make test`. A second call installs nothing again.
PYTHON ?= python3
BIN := .venv/bin
BENCHMARKS := deconvolution restoration psf labels watershed skeleton networks measure em pipeline inference large reading \
	merge scale engine alternative planning batch chaos

.PHONY: demo test test-thorough test-slow check setup bench docs clean

demo: .venv/.run                ## a synthetic volume with known truth through the whole pipeline
	$(BIN)/chunkflow demo

test: check                     ## checks and tests, warnings as errors
	$(BIN)/python -m pytest -m "not slow and not thorough" -n 2 --dist loadfile

test-thorough: .venv/.viewers   ## what needs servers, clusters or browsers, and what takes longer
	$(BIN)/python -m pytest -m "thorough and not slow" -n 2 --dist loadfile

test-slow: .venv/.dev           ## the full matrices
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

check: .venv/.dev               ## lint, format, layers, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

setup: .venv/.dev               ## the environment for development

docs: .venv/.dev                ## the site, in site/index.html; python -m http.server -d site serves it with search
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/.dev               ## benchmarks against named peers, quick versions
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py --quick || exit 1; done

clean:                          ## the environment and caches, not your data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "chunkflow needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[models]'
	touch $@

.venv/.viewers: .venv/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,viewers]' kubernetes-validate
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps dask-kubernetes
	touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ .venv/.run
