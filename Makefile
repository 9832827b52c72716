# Lorary. `make` lists the targets; each does all the set-up it needs.
PYTHON ?= python3.11
VENV   := .venv
GPU_VENV := .venv-gpu
BIN    := $(VENV)/bin
# Everything Lorary keeps for this checkout: models, data, the demo's store.
export LORARY_HOME ?= $(CURDIR)/.cache/lorary
# pip compiles nothing: of 29,000 files most are never imported. Python compiles those that are, once,
# for which this must be empty.
export PYTHONDONTWRITEBYTECODE :=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast walkthrough journeys parts check tools small-model fmt soak bench-serving bench-registry bench-upload bench-fleet fleet chart reference docs clean environment environment-dev environment-gpu

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: ## Train, publish, serve and ask three adapters; stays up (ARGS="--fast": one)
	@started=$$(date +%s) && $(MAKE) --no-print-directory environment \
	  && exec $(BIN)/python demo.py --started $$started $(ARGS)

test: environment-dev ## Everything CI runs: lint, types, every test
	@$(MAKE) --no-print-directory --jobs 3 check tools small-model
ifeq ($(strip $(ARGS)),)
	@$(MAKE) --no-print-directory --jobs 2 journeys parts
else
	$(BIN)/python -m pytest $(ARGS)
endif

# The longest chain: three trainings, then one test after the other on one vLLM. Threads that wait for
# others give up their core, here and below: there are more of them than cores.
journeys: environment-dev
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest tests/journeys

# On what the journeys leave idle. What takes long begins first, or one core would wait for it at the
# end.
parts: environment-dev
	OMP_WAIT_POLICY=passive nice -n 5 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder tests/components tests/unit benchmarks/tests

walkthrough: environment-dev tools ## Follow README and tutorials to the letter, in fresh clones
	$(BIN)/python -m pytest tests/walkthroughs --durations 0 $(ARGS)

test-fast: environment-dev ## Only the pure tests, in seconds
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/unit $(ARGS)

check: environment-dev ## Lint, types, spelling, prose, links, documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/proselint check README.md CONTRIBUTING.md helm/lorary/README.md docs
	$(BIN)/md-dead-link-check --no-color
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

tools: environment
	@sh scripts/install-browser.sh
	@sh scripts/install-operations.sh $(BIN)

small-model: environment
	@$(BIN)/lorary small-model >/dev/null

fmt: environment-dev ## Format and sort imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-serving: environment-dev ## Measure serving beside bare vLLM, any model and hardware (ARGS="callers --quick")
	$(BIN)/python -m benchmarks.serving $(ARGS)

bench-registry: environment-dev ## Measure the registry beside MLflow's server
	$(BIN)/python -m benchmarks.registry $(ARGS)

bench-upload: environment-dev ## Push 2 GB, kill it half-way, push again
	$(BIN)/python -m benchmarks.upload $(ARGS)

bench-fleet: environment-dev ## Affinity against round robin before two real replicas
	@sh scripts/install-operations.sh $(BIN)
	$(BIN)/python -m benchmarks.fleet.affinity $(ARGS)

soak: environment-dev ## Half an hour of everything at once, every answer judged (ARGS="--minutes 5")
	$(BIN)/python -m benchmarks.soak --minutes 30 --plot docs/figures/soak.png $(ARGS)

fleet: environment-dev ## Two replicas, S3, registry, Envoy, Prometheus; stays up
	@sh scripts/install-operations.sh $(BIN)
	$(BIN)/python -m benchmarks.fleet.up $(ARGS)

chart: environment-dev ## Make the chart's generated files anew: dashboards, values table
	$(BIN)/python -m helm.dashboards.build
	$(BIN)/python -m helm.values_docs

docs: environment-dev ## Build the documents as a site in build/docs; `mkdocs serve` shows it while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

reference: environment-dev ## Regenerate the reference pages in docs/reference/
	$(BIN)/python -m reference

clean: ## Remove the environment and everything cached for this checkout
	rm -rf $(VENV) $(GPU_VENV) .cache build *.egg-info

environment-gpu: $(GPU_VENV)/.ready ## Install vLLM for NVIDIA GPUs and all else into .venv-gpu (about 10 GB)
environment: $(VENV)/.ready
environment-dev: $(VENV)/.ready-dev

# The pins are complete, so pip resolves nothing. The CPU build of torch is on PyTorch's own index.
$(VENV)/.ready: requirements/cpu.txt pyproject.toml scripts/install.sh
	@sh scripts/install.sh $(PYTHON) $(VENV) requirements/cpu.txt
	@$(BIN)/pip install --quiet --no-compile --no-deps --no-build-isolation --editable .
	@touch $@

# In an environment of its own: vLLM's builds for CPUs and GPUs have one import name.
$(GPU_VENV)/.ready: requirements/gpu.txt pyproject.toml scripts/install.sh
	@sh scripts/install.sh $(PYTHON) $(GPU_VENV) requirements/gpu.txt
	@$(GPU_VENV)/bin/pip install --quiet --no-compile --no-deps --no-build-isolation --editable .
	@$(GPU_VENV)/bin/python -m compileall -qq --workers 0 $(GPU_VENV)/lib || true  # on all cores
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements/dev.txt
	@sh scripts/install.sh $(PYTHON) $(VENV) requirements/dev.txt
	@touch $@
