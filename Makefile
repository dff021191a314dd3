# rondo: `make help` lists what there is. Everything stays inside the checkout and nothing needs root, but for
# install-systemd.

PYTHON ?= python3
VENV = .venv/bin
# Where install-systemd puts the units, below DESTDIR; BINDIR is where they look for the commands.
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
# Man pages and completion go into SHAREDIR, from the installed wheel or, without one, from SHARE (`make man`).
SHAREDIR ?= $(PREFIX)/share
SHARE ?= build/share
# A file's tests stay in one process, for they may share what is costly to make.
PYTEST = pytest --numprocesses auto --dist loadfile --durations 15
export PATH := $(CURDIR)/$(VENV):$(PATH)
# pytest rewrites each test file, for seconds: that it keeps the result is worth a folder.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup setup-demo demo test-quick test test-long test-linux coverage check format bench bench-docs top-picture page-picture dashboards dashboard-picture guest vmm-guest vmm-demo \
	vmm-demo-remote-write vmm-demo-disk vmm-bench-15 vmm-bench-30 vmm-bench-45 lab proto man dist deb \
	install-systemd uninstall-systemd clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-21s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv with all that developers need (the others do it by themselves)
	@PYTHON="$(PYTHON)" scripts/setup.sh dev

setup-demo: ## make .venv with what the demos need, and no more
	@PYTHON="$(PYTHON)" scripts/setup.sh demo

demo: ## a 15 s VM, the store, the push and a real Prometheus, end to end; says first what it fetches
	@$(PYTHON) scripts/demo_fetch.py
	@PYTHON="$(PYTHON)" scripts/setup.sh demo
	@python scripts/demo.py

test-quick: setup ## tests that start nothing: half a minute (docs/testing.md)
	$(PYTEST) -m quick

test: setup ## all tests but the long ones: some minutes; says first what it fetches
	@python scripts/fetch.py --tests
	$(PYTEST) -m "not long"

test-long: setup ## the long tests: soaks, schedules of faults, the laboratory
	$(PYTEST) -m long

test-linux: setup ## of these, Linux guests on an emulated machine (docs/lab.md)
	$(PYTEST) tests/linux

coverage: setup ## the branches that the quick tests reach, and how many they must; TESTS=... measures others
	@rm -rf build/coverage
	coverage run -m $(PYTEST) $(or $(TESTS),-m quick)
	@coverage combine --quiet
	@coverage report $(if $(TESTS),--fail-under=0)

check: setup ## formatting, lint, types
	ruff format --check .
	ruff check .
	mypy

format: setup ## format the code
	ruff format .
	ruff check --fix .

bench: setup ## measure; JSON=docs/benchmarks.json keeps the figures for the docs
	@python scripts/bench.py $(if $(JSON),--json $(JSON))

bench-docs: setup ## make the figures of the docs anew from docs/benchmarks.json
	@python scripts/bench.py --docs

top-picture: setup ## draw docs/top.svg, the screen of rondo-query top
	@python scripts/top_picture.py

page-picture: setup ## draw docs/page-light.png and docs/page-dark.png, the page of rondo-serve
	@python scripts/page_picture.py

dashboards: setup ## make deploy/k8s/ of the dashboards and rules
	python scripts/dashboards.py

dashboard-picture: setup ## draw the dashboards of a real run into docs/; takes three minutes
	python scripts/dashboard_picture.py

guest: setup ## assemble the built-in guest (needs binutils)
	python scripts/build_guest.py

vmm-guest: ## build the Linux guest, kernel and initramfs, into build/guest
	@$(PYTHON) scripts/build_linux_guest.py

vmm-demo: setup-demo ## run a VM into the store vmm_metrics/, and look at it (docs/vmm-demo.md)
	@python scripts/vmm_demo.py store

vmm-demo-remote-write: setup-demo ## run a VM with its metrics in Prometheus meanwhile; on VMM_HOST if set
	@python scripts/vmm_demo.py remote-write

vmm-demo-disk: setup-demo ## run a VM with a disk that stays, and check what it wrote
	@python scripts/vmm_demo.py disk

vmm-bench-15: setup-demo ## run a VM for 15 s: seconds lived, in the store, received
vmm-bench-30: setup-demo ## the same for 30 s
vmm-bench-45: setup-demo ## the same for 45 s
vmm-bench-15 vmm-bench-30 vmm-bench-45:
	@VMM_DURATION=$(@:vmm-bench-%=%) python scripts/vmm_demo.py bench

lab: setup vmm-guest ## a shell on an emulated machine whose KVM boots Linux (docs/lab.md)
	@python scripts/lab.py shell

proto: setup ## generate the protobuf code
	python scripts/build_proto.py

dist: setup ## build the sdist, the wheel from it, and check both, in dist/
	rm -rf dist
	SOURCE_DATE_EPOCH="$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || date +%s)}" python -m build --no-isolation
	twine check --strict dist/*
	check-wheel-contents dist/*.whl

man: setup ## make man pages and shell completion, in build/share (a wheel brings its own)
	@python scripts/build_share.py $(SHARE)

deb: setup ## build dist/rondo-tools_VERSION_ARCH.deb with the distribution's Python (docs/install.md)
	@python scripts/build_deb.py

install-systemd: ## systemd's units, man pages, completion into DESTDIR, starting nothing (deploy/README.md)
	@DESTDIR="$(DESTDIR)" BINDIR="$(BINDIR)" LIBDIR="$(LIBDIR)" SHAREDIR="$(SHAREDIR)" SHARE="$(SHARE)" \
		deploy/systemd/install.sh install

uninstall-systemd: ## and out again
	@DESTDIR="$(DESTDIR)" BINDIR="$(BINDIR)" LIBDIR="$(LIBDIR)" SHAREDIR="$(SHAREDIR)" \
		deploy/systemd/install.sh uninstall

clean: ## remove what the targets made, .venv and .tools included
	rm -rf .venv .tools .demo build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache vmm_metrics
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
