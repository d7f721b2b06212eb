# make run    a real discovery run on this machine (CANDIDATES=3 for a shorter one)
# make test   the whole test suite but for what is marked slow
# make check  format, lint, types, import arrows, contracts
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
CANDIDATES ?=

.PHONY: run test setup check fmt proto clean

run: setup
	$(BIN)/asi-arch run $(if $(CANDIDATES),--candidates $(CANDIDATES)) $(ARGS)

test: setup
	$(BIN)/python -m pytest -m "not slow and not compose" $(ARGS)

setup: $(STAMP)

# torch first and alone: another package would otherwise choose a build of several gigabytes.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("asi-arch needs Python 3.11 or newer; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

# Generated code is committed, so that nobody needs a compiler to run; `make check` regenerates and compares.
PROTOC = $(BIN)/python -m grpc_tools.protoc -I proto --python_out=$(1) --grpc_python_out=$(1) \
	--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --mypy_out=$(1) \
	--plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --mypy_grpc_out=$(1) proto/services/contracts/*.proto

proto: setup
	$(call PROTOC,.)
