# The front door: every target is listed by `make help`, says what it does and installs what it lacks.
#
# As root every capability is demanded of the tests (SDWAN_REQUIRE), so that no skip goes unnoticed; without root
# the marked tests are skipped and say so. ARGS is handed on: make test ARGS="-k rekey", make benchmark ARGS=--quick.

SHELL := /bin/bash
.DEFAULT_GOAL := help

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
ALL_CAPABILITIES := root,bpf,netns
export SDWAN_REQUIRE ?= $(shell [ "$$(id -u)" -eq 0 ] && echo $(ALL_CAPABILITIES))

##@ Two commands

demo: setup ## Two sites, two unlike links, one cut in the middle: three minutes (root)
	$(BIN)/sdwan lab demo $(ARGS)

test: setup ## Every test: unit, fuzz, packet, namespaces, lab (root)
	$(PYTEST) tests $(ARGS)

##@ While working

check: venv lint ## Lint and unit tests, no root, under a minute
	$(PYTEST) tests/unit $(ARGS)

lint: venv ## ruff, mypy, and shellcheck where it is installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if command -v shellcheck >/dev/null; then shellcheck scripts/*.sh .ci/run; \
	else echo "lint: shellcheck is not installed, shell scripts not looked at"; fi

format: venv ## Let ruff put imports and layout in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-unit: venv ## Pure logic and fuzzing: no root, no clock, no network
	$(PYTEST) tests/unit tests/fuzz $(ARGS)

test-packet: setup ## BPF programs against tables of packets (root)
	$(PYTEST) tests/packet $(ARGS)

test-netns: setup ## Real traffic between network namespaces (root)
	$(PYTEST) tests/netns $(ARGS)

test-lab: setup ## The link emulator and the named scenarios (root)
	$(PYTEST) tests/lab $(ARGS)

##@ Look and measure

lab: setup ## List the lab's scenarios; `.venv/bin/sdwan lab --help` says how to run them (root)
	$(BIN)/sdwan lab list $(ARGS)

scenarios: setup ## What the bond promises, each situation by name: 25 minutes, build/scenarios.json (root)
	$(BIN)/sdwan lab scenarios $(ARGS)

benchmark: setup-benchmark ## Against bare veth, OpenVPN and wireguard-go; ARGS=--quick for a short one (root)
	$(BIN)/python -m benchmarks.benchmark $(ARGS)

##@ Housekeeping

setup: ## Install what is missing: packages, .venv, bpffs, headers (root); the others call it
	@scripts/setup.sh

setup-benchmark: ## ... and the rivals to measure against (root)
	@scripts/setup.sh --benchmark

venv: ## Only .venv, without root
	@scripts/setup.sh --unprivileged

clean: ## Remove results, caches and what a killed lab left in the kernel; .venv stays
	@if [ "$$(id -u)" -eq 0 ] && [ -x $(BIN)/sdwan ]; then $(BIN)/sdwan lab clean; fi
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage *.egg-info
	find sdwan tests benchmarks -name __pycache__ -type d -exec rm -rf {} +

help: ## This list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo test check lint format test-unit test-packet test-netns test-lab lab scenarios benchmark \
        setup setup-benchmark venv clean help
