# rondo: `make help` lists what there is. Everything stays inside the checkout; nothing needs root.

PYTHON ?= python3
VENV = .venv/bin
export PATH := $(CURDIR)/$(VENV):$(PATH)

.PHONY: help setup demo test test-linux check format bench guest vmm-guest lab proto clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv with all that is needed (the others do it by themselves)
	@PYTHON="$(PYTHON)" scripts/setup.sh

demo: setup ## a 15 s VM, the store, the push and a real Prometheus, end to end
	@python scripts/demo.py

test: setup ## all tests
	pytest

test-linux: setup ## Linux guests on an emulated machine (docs/lab.md); takes minutes
	pytest tests/linux

check: setup ## formatting, lint, types
	ruff format --check .
	ruff check .
	mypy

format: setup ## format the code
	ruff format .
	ruff check --fix .

bench: setup ## measure; prints every figure that the docs quote
	@python scripts/bench.py

guest: setup ## assemble the built-in guest (needs binutils)
	python scripts/build_guest.py

vmm-guest: ## build the Linux guest, kernel and initramfs, into build/guest
	@$(PYTHON) scripts/build_linux_guest.py

lab: setup vmm-guest ## a shell on an emulated machine whose KVM boots Linux (docs/lab.md)
	@python scripts/lab.py shell

proto: setup ## generate the protobuf code
	python scripts/build_proto.py

clean: ## remove what the targets made, .venv and .tools included
	rm -rf .venv .tools .demo build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache vmm_metrics
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
