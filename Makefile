# `make demo` and `make test` are all a newcomer needs; `make help` lists the rest.

PYTHON ?= python3
BIN := .venv/bin
# What `make demo` and `make bench` pass on, for example: make demo ARGS="--scenario rank-fault --keep"
ARGS ?=
# Linear algebra libraries start a thread per core; several training processes and a server share these cores.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test check bench prove proto deploy system-packages

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/.installed ## Make .venv with everything a developer needs

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("seismograd needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: install ## Watch a real model explode, with alert and post-mortem (ARGS="--scenario rnn --keep")
	$(BIN)/seismograd demo $(ARGS)

system-packages: ## Install the Debian packages that tests use (Prometheus, Alertmanager, PostgreSQL, Chromium, libfiu), when root
	@tests/support/system-packages

test: install system-packages ## Run every test, on every core (ARGS are passed to pytest)
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --max-worker-restart=0 $(ARGS)

check: install ## Lint, types, architecture, drift of generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy protos/generate.py deploy/generate.py client server tests
	# The client also as newer Pythons have it; what they make needless is no mistake.
	$(BIN)/mypy --python-version 3.13 --no-warn-unused-ignores client
	$(BIN)/lint-imports --no-logo
	$(BIN)/python protos/generate.py --check
	$(BIN)/python -m deploy.generate --check
	cd protos && ../$(BIN)/buf lint

.venv/.peers: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,bench]"
	@touch $@

bench: .venv/.peers ## Print the speed ratios against baselines and peers (ARGS="client" or "server" for one)
	$(BIN)/python -m tests.benchmarks $(ARGS)

prove: install system-packages ## Kill the server a thousand times, PostgreSQL fifty times, and count what was lost (some ten minutes)
	SEISMOGRAD_KILLS=1000 $(BIN)/python -m pytest -q tests/faults/test_server_killed.py
	SEISMOGRAD_POSTMASTER_KILLS=50 $(BIN)/python -m pytest -q tests/faults/test_postmaster_killed.py

proto: install ## Regenerate the protobuf modules
	$(BIN)/python protos/generate.py

deploy: install ## Regenerate the rules and dashboards below deploy/
	$(BIN)/python -m deploy.generate
