# Everything a person or CI runs. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HARNESS := $(BIN)/python -m tests.harness

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import ensurepip, sys; assert sys.version_info >= (3, 11)' 2>/dev/null || { \
	  echo "$(PYTHON) must be Python 3.11 or newer with venv; on Debian: apt-get install python3-venv" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

.PHONY: venv
venv: $(VENV)/.installed ## Make the virtual environment from the lock file

.PHONY: lock
lock: venv ## Resolve the dependencies anew
	$(BIN)/pip install --quiet uv
	for extra in dev operator gateway; do \
	  $(BIN)/uv pip compile pyproject.toml --extra $$extra --python-version 3.11 --universal \
	    --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade --quiet \
	    --output-file requirements/$$extra.lock || exit 1; done

.PHONY: generate
generate: venv ## Write the CRD and the chart's copy of it from the types
	$(BIN)/python -m modelserving_api.crd > crds/modelserving.yaml
	cp crds/modelserving.yaml charts/modelserving/crds/modelserving.yaml

.PHONY: check
check: venv ## Format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Not by scope or file: those know tests by their names, and of the tests that schemathesis makes of
# one function, which share a name, they would run one.
.PHONY: test-unit
test-unit: venv ## The tests that need no cluster
	$(BIN)/pytest tests/unit --numprocesses=auto --dist=worksteal

.PHONY: test
test: check test-unit ## All of the tests; makes the cluster, and fails if it cannot
	$(HARNESS) up
	$(BIN)/pytest tests/chaos tests/cluster --durations=10

# 0: a random one, which is printed.
SEED ?= 0
ROUNDS ?= 100

.PHONY: chaos
chaos: venv ## Kill and pause everything amid swaps, under load; SEED=… ROUNDS=…
	$(BIN)/python -m tests.chaos --rounds $(ROUNDS) --seed $(SEED)

.PHONY: quiet
quiet: venv ## Ten quiet minutes, in which nobody may write anything; else as in `make test`
	$(HARNESS) up
	QUIET_SECONDS=600 $(BIN)/pytest tests/cluster/test_api_use.py -k nothing_is_written

.PHONY: demo
demo: venv ## From a bare machine to three models answering; leaves everything up
	$(HARNESS) demo

.PHONY: down
down: venv ## Take the cluster down
	$(HARNESS) down

.PHONY: bench-swap
bench-swap: venv ## Our swap against the same two Deployments scaled by hand
	$(BIN)/python -m benchmarks.swap

.PHONY: bench-operator
bench-operator: venv ## One operator with a hundred ModelServings, beside one with a single one
	$(BIN)/python -m benchmarks.operator

.PHONY: bench-engine-start
bench-engine-start: venv ## Where the start of the real vLLM on a CPU goes
	$(BIN)/python -m benchmarks.engine_start

.PHONY: bench-gateway
bench-gateway: venv ## The gateway beside nginx, vllm-router and LiteLLM, one core each
	$(BIN)/python -m benchmarks.gateway

.PHONY: bench-arbitration
bench-arbitration: venv ## When to swap: the policy beside others, in simulated time
	$(BIN)/python -m benchmarks.arbitration
