# `make` alone lists what there is.

PYTHON := .venv/bin/python
UV := $(shell command -v uv || echo .cache/uv/bin/uv)
CODE := kmsplugin operator testbed benchmarks tests

.DEFAULT_GOAL := help
.PHONY: help setup setup-tests demo demo-check test check bench format proto openapi metrics-docs lock controlplane clean

help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## Make a fresh Debian or Ubuntu machine ready (a second run only checks)
	@scripts/bootstrap

setup-tests: ## The same for a machine that runs the tests, which need a little more
	@scripts/bootstrap tests

demo: setup ## Show the whole product on a real control plane
	@$(PYTHON) -m testbed.demo

demo-check: setup ## Run the demo without pauses and fail when anything is wrong
	@$(PYTHON) -m testbed.demo --check

test: setup-tests ## Run all tests, the end-to-end ones included
	@$(PYTHON) -m pytest tests

check: ## Lint, types, layers and the fast tests, in less than a minute
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(PYTHON) -m pytest -q tests/unit tests/contract

bench: setup-tests ## Measure the hot paths, the provider beside one in Go, REST, and stores of up to 100,000 keys
	@$(PYTHON) -m benchmarks.hot_paths
	@$(PYTHON) -m benchmarks.kms
	@$(PYTHON) -m benchmarks.rest
	@$(PYTHON) -m benchmarks.scale --plot docs/scale.svg

format: ## Format the code and fix what can be fixed without a person
	@.venv/bin/ruff check --fix-only .
	@.venv/bin/ruff format .

proto: ## Generate the gRPC code from protos/
	$(PYTHON) -m grpc_tools.protoc -Ikeyplugin/kmsapi=protos/kms/v2 \
		--python_out=kmsplugin --grpc_python_out=kmsplugin --pyi_out=kmsplugin protos/kms/v2/api.proto

openapi: ## Write docs/openapi.json from the code
	@$(PYTHON) -m keyrest.openapi > docs/openapi.json

metrics-docs: ## Write the tables of docs/metrics.md from the code
	@$(PYTHON) -m testbed.metrics_page

lock: ## Write requirements.lock from pyproject.toml, with hashes
	$(UV) pip compile pyproject.toml --group dev --universal --generate-hashes \
		--no-emit-index-url --no-header -q -o requirements.lock

controlplane: setup ## Build etcd, kube-apiserver, kube-controller-manager and kubectl
	@$(PYTHON) -m testbed.binaries

clean: ## Remove what was built or cached in this directory
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis \
		.coverage* dist build
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
