# PG Collector. `make` lists what there is.
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 4

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  make demo SECONDS=20  the same, ending by itself; LOCAL=1: into files, no platform"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "PG Collector needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "Python has no venv here: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing PG Collector and its tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: install
install: $(READY) ## Make the environment in .venv

.PHONY: demo
demo: $(READY) ## Watch the agent sample an embedded PostgreSQL 18 for a platform of its own
	@$(BIN)/pgc demo $(if $(SECONDS),--seconds $(SECONDS)) $(if $(LOCAL),--local)

.PHONY: test
test: $(READY) ## Pass lint, types, import rules and all tests that can run here
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	@# types are checked while the tests wait for their servers
	@$(BIN)/mypy & types=$$!; \
	$(BIN)/pytest -n $(WORKERS) -m "not long" $(PYTEST) && tested=0 || tested=$$?; \
	wait $$types && exit $$tested

.PHONY: lab
lab: $(READY) ## Get PostgreSQL 12 to 18 for the tests (npm), outside the checkout
	$(BIN)/python -m tests.support.lab install

.PHONY: soak
soak: $(READY) ## Jobs every second for five minutes, on every version at once
	PGC_SOAK_SECONDS=300 $(BIN)/pytest tests/fault/test_soak.py

.PHONY: fault
fault: $(READY) ## Break it: the whole fault suite, bounded in time
	$(BIN)/pytest -n $(WORKERS) tests/fault $(PYTEST)

.PHONY: monitoring
monitoring: $(READY) ## Ten minutes of faults: do the alerts fire, each in its own, and no other
	$(BIN)/python -m tests.fault.monitoring

KILLS ?= 1000
CUTS ?= 500
CORRUPTIONS ?= 500
PAIRS ?= 200
NIGHTLY ?= .nightly
.PHONY: fault-nightly
fault-nightly: $(READY) ## Kills, power cuts and damaged files, many; goes on where it was broken off
	$(BIN)/python -m tests.fault.nightly $(NIGHTLY) kills=$(KILLS) cuts=$(CUTS) \
	  corruptions=$(CORRUPTIONS) outages=2 pairs=$(PAIRS) --write

.PHONY: lint
lint: $(READY) ## Mend what can be mended, show the rest
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

.PHONY: bench
bench: $(READY) ## Measure the agent beside the floor and the peers (an hour)
	$(BIN)/python -m bench

.PHONY: bench-narrow
bench-narrow: $(READY) ## Half an hour in a tenth of a core, 64 MB and 100 MB of disk
	$(BIN)/python -m bench.narrow

.PHONY: bench-guard
bench-guard: $(READY) ## Fail where the agent has become dearer than bench/baseline.json says
	$(BIN)/python -m bench.guard

.PHONY: cost
cost: $(READY) ## Measure what each set costs a server, for docs/samplers.md
	$(BIN)/python -m tests.docs.cost
	$(BIN)/python -m tests.docs.generated

.PHONY: captures
captures: $(READY) ## Take the pictures of docs/tour.md anew
	$(BIN)/python -m tests.docs.captures

.PHONY: man
man: $(READY) ## Write the pages for man(1) to dist/man
	@$(BIN)/python -m pg_collector.cli.manual man dist/man

.PHONY: lock
lock: ## Renew constraints.txt from pyproject.toml
	@$(PYTHON) packaging/lock.py

.PHONY: binary
binary: ## Build dist/pgc/ and the one file: no Python needed where they run
	@$(PYTHON) packaging/binary/build.py

.PHONY: binary-portable
binary-portable: ## The same for others, in a root of Debian 11: glibc 2.30 (root)
	@$(PYTHON) packaging/binary/portable.py $(if $(FRESH),--fresh)

.PHONY: release
release: ## Build all that is released, and check it; SNAPSHOT=1 without a release
	@$(PYTHON) packaging/release.py $(if $(SNAPSHOT),--snapshot)

dist/pgc/pgc:
	@$(MAKE) binary

.PHONY: deb
deb: dist/pgc/pgc man ## Build dist/*.deb from dist/pgc; VERSION=1.2.3 in the place of its own
	@VERSION=$(VERSION) $(PYTHON) packaging/linux/build.py deb

.PHONY: rpm
rpm: dist/pgc/pgc man ## Build dist/*.rpm, likewise
	@VERSION=$(VERSION) $(PYTHON) packaging/linux/build.py rpm

.PHONY: packages-test
packages-test: $(READY) binary image ## Boot systems, install what is built, break it (root; see tests/packaging)
	$(BIN)/pytest -m "" tests/packaging $(PYTEST)

.PHONY: image
image: dist/pgc/pgc ## Build dist/pg-collector-image.tar from dist/pgc (root, mmdebstrap, buildah)
	@$(PYTHON) packaging/container/build.py

.PHONY: sbom
sbom: ## Write dist/sbom.cdx.json: what is shipped, in which versions
	@$(PYTHON) packaging/shipped.py sbom

.PHONY: pip-audit
pip-audit: ## Look up what is shipped in the advisory databases (network)
	@$(PYTHON) packaging/shipped.py audit

.PHONY: clean
clean: ## Remove the environment and what tools left
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
