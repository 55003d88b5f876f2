# The two commands that a fresh machine needs are `make up` and `make test` (Python 3.11 and git are all they ask for).
PYTHON ?= python3
VENV   ?= .venv
STAMP  := $(VENV)/.installed

.PHONY: up down test lint bench lock schemas clean

up: $(STAMP)                ## start the local environment: gateway, controller, simulated endpoints
	@$(VENV)/bin/turnout up

down: $(STAMP)              ## stop it; what it knows stays in git (.git/turnout holds caches only)
	@$(VENV)/bin/turnout down

test: $(STAMP) lint         ## everything that CI checks
	$(VENV)/bin/python -m pytest

lint: $(STAMP)
	$(VENV)/bin/ruff check controller tests benchmarks
	$(VENV)/bin/ruff format --check --quiet controller tests benchmarks
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache >/dev/null || $(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/zizmor --offline --quiet .github/workflows controller/cli/templates/turnout-*.yaml

bench: $(STAMP)             ## the figures that docs/benchmarks.md explains
	$(VENV)/bin/python -m benchmarks

lock:                       ## pins what is installed, with hashes and without addresses (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --extra dev pyproject.toml -o requirements.lock

schemas: $(STAMP)
	$(VENV)/bin/turnout schemas --write schemas
	$(VENV)/bin/python -m controller.reference docs/events.md

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Byte code is compiled once here: some images set PYTHONDONTWRITEBYTECODE, and then every start would compile again.
$(STAMP): pyproject.toml requirements.lock
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "Installing Turnout into $(VENV) (once, about half a minute) ..."
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python -m compileall -q $(VENV)/lib controller || true
	@touch $@
