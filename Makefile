# The commands a person types are the commands CI runs. `make help` lists them.

.DEFAULT_GOAL := help
.PHONY: help setup demo test bench load browser viewers validators peers slow differential explore fuzz chaos mutants lint audit try bundle bundle-check licences check-peers phantom-model clean

BIN := .venv/bin
CONSTRAINTS := deploy/constraints.txt
PEERS := dcmtk dicom3tools iproute2 openssl orthanc orthanc-dicomweb postgresql redis-server
# The oldest Python that fits, which the pinned wheels are sure to have, unless PYTHON names one.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.setup ## make .venv with everything that the node and the demo need

demo: .venv/.setup ## run the main job end to end and show its results (demo-output/)
	@$(BIN)/medrega-pacs demo

test: .venv/.test check-peers ## lint, type check and run all tests; installs Debian packages if it may
	@$(MAKE) --no-print-directory lint
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

bench: .venv/.test check-peers ## measure it all beside its peers (ten minutes; bench-output/)
	$(BIN)/python tests/bench/bench.py

# LEDGER=100000 as well: what everything costs with a year of studies in the ledger; six minutes.
load: .venv/.test check-peers ## studies through a whole node, what its processes take and where time goes (STUDIES=200, LEDGER=0; load-output/)
	$(BIN)/python tests/load/load.py --studies $(or $(STUDIES),200) --ledger $(or $(LEDGER),0)

# make test does without these: they need a browser.
browser: PEERS := chromium fonts-dejavu-core fonts-droid-fallback orthanc
browser: .venv/.viewers check-peers ## drive the console in a headless Chromium; renews deploy/images/console
	$(BIN)/pytest tests/browser

# Nor without these: they need a browser, npm and a download of 50 MB.
viewers: PEERS := chromium fonts-dejavu-core orthanc orthanc-dicomweb orthanc-webviewer
viewers: .venv/.viewers check-peers ## open results in OHIF, dwv and Orthanc's viewer; renews deploy/images/viewers
	@command -v npm >/dev/null || { echo "npm is needed to fetch viewers: install Node.js (nodejs, npm)"; exit 1; }
	$(BIN)/pytest tests/viewers

# Nor without these: they need Java and work ten seconds a document.
validators: PEERS := libpixelmed-java libcommons-codec-java libvecmath-java libslf4j-java default-jre-headless
validators: .venv/.test check-peers ## hold the SR against PixelMed's DicomSRValidator
	$(BIN)/pytest tests/validators

# Nor without these: npm, and hours (STREAMS=1000 makes it minutes).
peers: .venv/.test check-peers ## send and receive with peers that npm brings
	$(BIN)/pytest tests/peers

slow: .venv/.test .venv/.release check-peers ## destinations that are down for long, archives that route everything back
	$(BIN)/pytest -m slow

chaos: .venv/.test check-peers ## 200 studies through a node whose parts are killed, cut off, filled up and set back (SEED=N; needs root)
	$(BIN)/python tests/chaos/chaos.py --seed $(or $(SEED),1)

# Each has to fail: a suite that does not see a guard missing proves nothing.
mutants: .venv/.test check-peers ## chaos against a node without its syncs, leases, stable UIDs and loop guard, which must fail each time
	@for guard in sync lease uid guard; do report=chaos-output/seed-3-without-$$guard.json; rm -f $$report; \
		$(BIN)/python tests/chaos/chaos.py --studies 12 --rounds 2 --seed 3 --settle 60 --without $$guard \
			--only "writer stopped" --only "reader killed" --only "reader stopped" --only "power cut" --only "listener killed"; \
		grep -q '"wrong": {"' $$report || grep -A1 '"wrong": {' $$report | grep -q ': \[' \
			|| { echo "without $$guard nothing was wrong: the suite is blind"; exit 1; }; done

# atheris, which guides it, has no wheels for every Python: only this target takes it.
fuzz: .venv/.test ## hostile bytes into every parser and entry point (SECONDS=60 a target; fuzz-output/report.json)
	@$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) "atheris>=3.0"
	$(BIN)/python tests/fuzz/fuzz.py --seconds $(or $(SECONDS),60) --seed $(or $(SEED),1)

explore: .venv/.test ## the property tests with examples that were never drawn before
	HYPOTHESIS_PROFILE=explore $(BIN)/pytest -m "hypothesis and not slow"

differential: .venv/.test ## 100 000 streams into the fast and the stock receive path
	$(BIN)/pytest --timeout 0 --numprocesses 4 tests/differential

lint: .venv/.test ## ruff, bandit and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive dicom_node engine sr_writer deploy
	$(BIN)/mypy

# What pypi.org knows; where it is not reached, the versions are listed.
audit: .venv/.release ## known vulnerabilities of the pinned versions
	@$(BIN)/python deploy/audit.py

try: PEERS := orthanc orthanc-dicomweb
try: .venv/.setup check-peers ## Orthanc, OHIF and the node on this machine: sends a study, opens the viewer on the result
	$(BIN)/python deploy/try-orthanc-ohif/try.py

bundle: .venv/.release ## the offline bundle (dist/): wheels, licences, bill of materials, install script
	$(BIN)/python deploy/bundle/make.py

bundle-check: .venv/.test .venv/.release ## install the bundle where no index is reachable, and run the demo from it
	$(BIN)/pytest -m "slow or not slow" tests/deploy/test_bundle.py

licences: .venv/.release ## renew deploy/LICENCES.md from a fresh environment
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(BIN)/python -m venv "$$fresh" && \
		"$$fresh/bin/pip" install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) ".[demo,postgresql]" && \
		$(BIN)/python deploy/bundle/materials.py "$$fresh/bin/python" > deploy/LICENCES.md

phantom-model: .venv/.test ## train the commissioning model anew (hours on two cores)
	$(BIN)/python -m engine.phantom.train --out phantom-training
	$(BIN)/python -m engine.phantom.publish phantom-training
	$(BIN)/python -m engine.phantom.evaluate --mammograms --json engine/phantom/checkpoint/evaluation.json

clean: ## remove what the targets made, and the virtual environment
	rm -rf .venv demo-output try-output bench-output load-output chaos-output fuzz-output build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv"; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv || $(PYTHON) -m virtualenv .venv || \
		{ rm -rf .venv; echo "No virtual environment can be made: apt-get install python3-venv"; exit 1; }

.venv/.setup: pyproject.toml $(CONSTRAINTS) | .venv/bin/python
	@echo "Installing the node and the demo's images into .venv (the first time some minutes, most of it downloads)"
	$(BIN)/pip install --disable-pip-version-check --constraint $(CONSTRAINTS) --editable ".[demo]"
	@touch $@

.venv/.test: .venv/.setup
	@echo "Installing what the tests need into .venv (the first time some minutes, most of it downloads)"
	$(BIN)/pip install --disable-pip-version-check --constraint $(CONSTRAINTS) --editable ".[test]"
	@touch $@

.venv/.viewers: .venv/.test
	$(BIN)/pip install --disable-pip-version-check --constraint $(CONSTRAINTS) --editable ".[viewers]"
	@touch $@

.venv/.release: .venv/.setup
	$(BIN)/pip install --disable-pip-version-check --constraint $(CONSTRAINTS) --editable ".[release]"
	@touch $@

check-peers: # the real peers that are talked to
	@missing=""; for package in $(PEERS); do \
		dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	echo "These Debian packages are needed:$$missing"; \
	if [ "$$(id -u)" = 0 ]; then sudo=""; \
	elif sudo -n true 2>/dev/null; then sudo="sudo"; \
	else echo "They cannot be installed without root. Run: sudo apt-get install$$missing"; exit 1; fi; \
	$$sudo apt-get update && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $$missing || \
	{ echo "They could not be installed. Run: sudo apt-get install$$missing"; exit 1; }
