# Everything here sets itself up: it needs a Python 3.11 or newer and make, and reaches a package index once.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PYTHON_BIN := $(VENV)/bin/python
READY := $(VENV)/.ready
BENCH := .tools/bench
FUZZ := .tools/fuzz
# niquests puts another urllib3 in urllib3's place, so that it needs environments of its own.
NIQUESTS := .tools/niquests .tools/niquests-oldest
UV := sh scripts/uv
COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
	--fork-strategy fewest --python-version 3.11

# Extra arguments for pytest and the like: make test ARGS="-k denied"
ARGS ?=

.PHONY: help demo test check docs bench fuzz suites mutants nightly wheel lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements/dev.txt scripts/bootstrap scripts/uv scripts/find-python
	@sh scripts/bootstrap $(VENV) requirements/dev.txt
	@touch $@

demo: $(READY) ## attacks on a plain client and on the jailed ones, on loopback
	@$(PYTHON_BIN) -m netjail demo $(ARGS)

$(NIQUESTS:%=%/.ready): .tools/%/.ready: requirements/%.txt scripts/bootstrap scripts/uv scripts/find-python
	@sh scripts/bootstrap .tools/$* requirements/$*.txt
	@touch $@

test: $(READY) $(NIQUESTS:%=%/.ready) ## every test (ARGS="-k denied" for some)
	@$(PYTHON_BIN) -m pytest -n auto --dist loadfile $(ARGS)

check: $(READY) ## lint, format, types of the tree, and types of the built wheel
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/basedpyright
	$(PYTHON_BIN) scripts/make_registry.py --check
	$(PYTHON_BIN) scripts/check_wheel.py

docs: $(READY) ## the documentation into docs/_build/html, warnings as errors, every example run
	$(VENV)/bin/sphinx-build --fail-on-warning --keep-going --nitpicky --quiet -b html docs docs/_build/html
	$(VENV)/bin/sphinx-build --fail-on-warning --quiet -b doctest docs docs/_build/doctest
	$(PYTHON_BIN) -m pytest -q tests/test_readme.py

wheel: $(READY) ## the wheel, the source archive and a bill of materials (CycloneDX) into dist
	$(PYTHON_BIN) -m hatchling build --clean
	$(VENV)/bin/cyclonedx-py requirements --pyproject pyproject.toml --mc-type library --output-reproducible \
		--output-format JSON --output-file dist/netjail.cdx.json requirements/dev.txt

$(BENCH)/.ready: requirements/bench.txt scripts/bootstrap scripts/uv scripts/find-python
	@sh scripts/bootstrap $(BENCH) requirements/bench.txt
	@touch $@

bench: $(BENCH)/.ready ## the benchmarks beside the plain clients
	@$(BENCH)/bin/python -m benchmarks $(ARGS)

$(FUZZ)/.ready: requirements/fuzz.txt scripts/bootstrap scripts/uv scripts/find-python
	@sh scripts/bootstrap $(FUZZ) requirements/fuzz.txt
	@touch $@

fuzz: $(FUZZ)/.ready ## the parsers under a coverage-guided fuzzer, a minute each (ARGS="--seconds 3600")
	@$(FUZZ)/bin/python -m tests.fuzz $(ARGS)

suites: $(READY) ## the plain clients' own test suites through ours
	@$(PYTHON_BIN) -m tests.suites $(ARGS)

mutants: $(READY) ## faults put into the code one at a time, each of which a test must notice
	@$(PYTHON_BIN) -m tests.mutants $(ARGS)

nightly: $(READY) ## the proofs in full: every spelling, a million requests, ten million decisions
	@NETJAIL_NIGHTLY=1 $(PYTHON_BIN) -m pytest -o faulthandler_timeout=7200 tests/proofs \
		tests/unit/test_rules_properties.py tests/clients/test_dnspython.py $(ARGS)

lock: ## the newest (and oldest) versions that fit pyproject.toml into requirements, with hashes
	$(COMPILE) --upgrade requirements/uv.in -o requirements/uv.txt
	$(COMPILE) --upgrade --group core -o requirements/core.txt
	$(COMPILE) --upgrade pyproject.toml --all-extras --group test --group lint --group docs -o requirements/dev.txt
	$(COMPILE) --upgrade pyproject.toml --all-extras --group test --resolution lowest-direct -o requirements/oldest.txt
	$(COMPILE) --upgrade pyproject.toml --all-extras --group core --group bench -o requirements/bench.txt
	$(COMPILE) --upgrade --group core --group fuzz -o requirements/fuzz.txt
	$(COMPILE) --upgrade --group core requirements/niquests.in -o requirements/niquests.txt
	$(COMPILE) --upgrade --group core requirements/niquests.in --resolution lowest-direct -o requirements/niquests-oldest.txt

clean: ## everything that the Makefile made
	rm -rf .venv .tools dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
