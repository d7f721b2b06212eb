# make run    a real discovery run on this machine, about ten minutes (CANDIDATES=3 for exactly so many)
# make discover  search, second trainings, a verdict: about half an hour on two cores
# make audit  the published run: its log, hashes, replay and claims; then its winner and strongest control, trained again
# make gpu    what only a GPU can show, part by part, into gpu.json
# make kernels  the zoo against fla's own Triton kernels, without a GPU: installs Triton, a gigabyte
# make test   the whole test suite but for what is marked slow
# make chaos  faults of every kind, injected into whole runs (SEED="1 2" for schedules that nobody has written)
# make check  lint, format, types, import arrows, contracts (make fmt puts the format right)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNS := $(VENV)/.runs
ARGS ?=
SEED ?=
CANDIDATES ?=

.PHONY: run discover gpu kernels audit test test-compose chaos setup constraints check fmt proto page release-contracts clean

run: $(RUNS)
	$(BIN)/asi-arch run $(if $(CANDIDATES),--candidates $(CANDIDATES)) $(ARGS)

# Everything that only a GPU can show, no part begun after 40 minutes; without one what a CPU can, and what was left out.
gpu: setup
	$(BIN)/python -m bench.gpu $(ARGS)

# Under Triton's interpreter. Triton is in no other extra: unpacked it is larger than all that torch needs on a CPU.
kernels: setup
	@$(BIN)/python -c 'import triton' 2> /dev/null || deploy/install.sh triton
	$(BIN)/python -m pytest -m slow -n 2 --durations 2 tests/engineer/program/test_kernels.py $(ARGS)

discover: $(RUNS)
	$(BIN)/asi-arch discover $(ARGS)

LOG ?= examples/flagship/tiny/log.jsonl.gz

audit: $(RUNS)
	$(BIN)/asi-arch audit $(LOG) $(ARGS)

test: setup
	$(BIN)/python -m pytest -m "not slow and not compose" -n auto --maxprocesses 8 --dist loadfile $(ARGS)

# The stack in containers, hurt and looked after: needs a docker engine; logs stay in build/compose.
test-compose: setup
	$(BIN)/python -m pytest -m compose tests/compose $(ARGS)

# Every schedule of tests/chaos, and one drawn from each SEED, on SQLite and, where there is a mongod, MongoDB.
chaos: setup
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(ARGS)

# What tests and checks; what only runs is a part of it.
setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@deploy/install.sh dev
	@touch $(RUNS) $@

$(RUNS): pyproject.toml constraints.txt | $(BIN)/python
	@if test -e $(STAMP); then deploy/install.sh dev && touch $(STAMP); else deploy/install.sh all; fi
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("asi-arch needs Python 3.11 or newer; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# The versions that all of this was tested with, for any platform. torch's is in deploy/install.sh, what belongs to its
# CUDA build is pinned by torch itself.
constraints: setup
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/python -m uv pip compile pyproject.toml -q --extra dev --universal --python-version 3.11 --upgrade \
		--no-header --no-annotate --no-emit-package torch | grep -v '^nvidia-\|^cuda-\|^triton' > constraints.new
	mv constraints.new constraints.txt

fmt: setup
	$(BIN)/ruff check -q --fix .
	$(BIN)/ruff format -q .

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python deploy/kubernetes/validate.py
	@rm -rf build/contracts && mkdir -p build/contracts
	$(call PROTOC,build/contracts) > /dev/null 2>&1
	diff -r -x __pycache__ -x '__init__.py' build/contracts/services/contracts services/contracts
	$(call DESCRIPTORS,build/contracts/new.binpb)
	$(BIN)/python proto/breaking.py proto/released.binpb build/contracts/new.binpb

# Generated code is committed, so that nobody needs a compiler to run; `make check` regenerates and compares.
PROTOC = $(BIN)/python -m grpc_tools.protoc -I proto --python_out=$(1) --grpc_python_out=$(1) \
	--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --mypy_out=$(1) \
	--plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --mypy_grpc_out=$(1) proto/services/contracts/*.proto

DESCRIPTORS = $(BIN)/python -m grpc_tools.protoc -I proto --include_imports --descriptor_set_out=$(1) proto/services/contracts/*.proto

proto: setup
	$(call PROTOC,.)

# The bundle of the page is committed, so that installing needs no npm; tests/web/test_bundle.py compares.
page:
	cd web && npm ci && npm run check && npm run build

# What the next change of a contract is compared with: run once per release.
release-contracts: setup
	$(call DESCRIPTORS,proto/released.binpb)

clean:
	rm -rf web/node_modules
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
