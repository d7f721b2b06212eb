# make run    a real discovery run on this machine (CANDIDATES=3 for a shorter one)
# make discover  search, second trainings, a verdict: about half an hour on two cores
# make test   the whole test suite but for what is marked slow
# make check  lint, format, types, import arrows, contracts (make fmt puts the format right)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
CANDIDATES ?=

.PHONY: run discover test test-compose setup check fmt proto page release-contracts clean

run: setup
	$(BIN)/asi-arch run $(if $(CANDIDATES),--candidates $(CANDIDATES)) $(ARGS)

discover: setup
	$(BIN)/asi-arch discover $(ARGS)

test: setup
	$(BIN)/python -m pytest -m "not slow and not compose" -n auto --maxprocesses 8 --dist loadfile $(ARGS)

# The stack in containers, hurt and looked after: needs a docker engine; logs stay in build/compose.
test-compose: setup
	$(BIN)/python -m pytest -m compose tests/compose $(ARGS)

setup: $(STAMP)

# torch first and alone: another package would otherwise choose a build of several gigabytes.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("asi-arch needs Python 3.11 or newer; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

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

# The bundle of the page is committed, so that installing needs no npm; tests/console/test_bundle.py compares.
page:
	cd web && npm ci && npm run check && npm run build

# What the next change of a contract is compared with: run once per release.
release-contracts: setup
	$(call DESCRIPTORS,proto/released.binpb)

clean:
	rm -rf web/node_modules
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
