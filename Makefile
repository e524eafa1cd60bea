# Every target sets itself up: the first one makes .venv, the others use it again.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-bench/.ready
CODE := $(wildcard retinue actors cluster tests benchmarks examples k8s docs)
# The type checker meets `actors` and `cluster` where they are imported from, and only there.
TYPED := $(filter-out actors cluster,$(CODE))

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick simulate chaos bench bench-quick check fmt clean
.PHONY: test-clusters test-cluster test-chaos test-plain test-domain test-simulation

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## Survey the standard library, or make demo DIR=some/directory, with a tree of agents
	@$(BIN)/python examples/survey.py $(if $(DIR),"$(DIR)")

# Tests run in groups, two at once; what each says comes in one piece when it is done. The longest
# begin first.
TWO_AT_ONCE = $(MAKE) --no-print-directory -k -j 2 $(if $(filter output-sync,$(.FEATURES)),-O)
QUICK := not (cluster or own_cluster or chaos)

test: $(READY) ## Run all tests
	@$(TWO_AT_ONCE) test-clusters test-plain test-domain test-simulation test-chaos test-cluster

test-quick: $(READY) ## Run the tests that need no Ray
	@$(TWO_AT_ONCE) test-plain test-simulation test-domain

test-clusters: # those that start clusters, and kill what they have started
	@$(BIN)/pytest -m own_cluster

test-cluster: # those that share a cluster
	@$(BIN)/pytest -m "cluster and not own_cluster"

test-chaos: # a short run of the harness
	@$(BIN)/pytest -m chaos

test-plain: # with Redis and processes, all without Ray
	@$(BIN)/pytest -m "$(QUICK)" --ignore tests/domain --ignore tests/simulation

test-simulation:
	@$(BIN)/pytest tests/simulation

test-domain: # what they leave out is told; below `fail_under` that is an error
	@$(BIN)/coverage run -m pytest tests/domain
	@$(BIN)/coverage report

simulate: $(READY) ## Run the actors in simulated faults: make simulate SEED=0 SCHEDULES=10000
	@$(BIN)/python -m tests.simulation --seed $(or $(SEED),0) --schedules $(or $(SCHEDULES),10000)

chaos: $(READY) ## Kill and cut everything under work: make chaos SEED=1 ROUNDS=100, 6 s each
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) --rounds $(or $(ROUNDS),100)

bench: $(READY) $(PEERS) ## Measure everything, side by side with others: a quarter of an hour
	@$(BIN)/python -m benchmarks.operations > /dev/null
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m docs.sizing --write

bench-quick: $(READY) $(PEERS) ## The same with small sizes: two minutes
	@$(BIN)/python -m benchmarks.operations > /dev/null
	@$(BIN)/python -m benchmarks --quick
	@$(BIN)/python -m docs.sizing --write

check: $(READY) ## Check format, lint, types, import arrows and the front door
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/mypy $(TYPED)
	@$(BIN)/pytest tests/test_arrows.py tests/test_front_door.py $(wildcard tests/test_senders.py)

fmt: $(READY) ## Format the code and repair what the linter can
	@$(BIN)/ruff check --fix-only $(CODE)
	@$(BIN)/ruff format $(CODE)

clean: ## Remove all that was made here, .venv too
	@rm -rf .venv* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The ticker shows what pip is at on a terminal; it stops with this shell, however that ends.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "Retinue needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$("$(PYTHON)" --version): a minute or two, once"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@log=$(VENV)/setup.log; : > $$log; ticker=; \
	if [ -t 1 ]; then \
		while sleep 1 && kill -0 $$$$ 2>/dev/null; do \
			printf '\r\033[K  %.76s' "$$(tail -n 1 $$log)"; \
		done & ticker=$$!; \
	fi; \
	trap '[ -z "$$ticker" ] || { kill $$ticker 2>/dev/null; printf "\r\033[K"; }' EXIT; \
	trap 'exit 130' INT TERM; \
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
		-e '.[embedded,dev]' -c constraints.txt > $$log 2>&1 || \
	{ status=$$?; echo "Setting up $(VENV) failed; what pip said last ($$log has all of it):" >&2; \
	  tail -n 15 $$log >&2; exit $$status; }
	@touch $@

# Those that the benchmarks compare with, apart from ours: their versions are not ours.
$(PEERS): benchmarks/requirements.txt | $(READY)
	@echo "Setting up .venv-bench, which only the benchmarks use: a minute, once"
	@"$(PYTHON)" -m venv --clear .venv-bench
	@log=.venv-bench/setup.log; .venv-bench/bin/python -m pip install \
		--disable-pip-version-check --progress-bar off -r $< > $$log 2>&1 || \
	{ status=$$?; echo "It failed; what pip said last ($$log has all of it):" >&2; \
	  tail -n 15 $$log >&2; exit $$status; }
	@touch $@
