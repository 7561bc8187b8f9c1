# Two commands do everything: `make demo` and `make test`. Each installs what it needs and says so.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

CARGO ?= cargo
FUZZ_SECONDS ?= 60
SEEDS ?= 1000000
FIRST ?= 0
SEED ?=
CHAOS_EVENTS ?= 100000
CHAOS_KILLS ?= 50
CHAOS_RESTARTS ?= 20
CHAOS_SEED ?=
CHAOS_WORKERS ?= 1
CHAOS_REPORT ?= $(CURDIR)/target/chaos
DEAD_LETTERS ?= 100000
BODIES ?= 10000000
ANSWERS ?= 1000000
CALLS ?= 100000
BODIES_SEED ?=
VERSION ?=
MUTATED ?= src/retry.rs src/outcome.rs src/broker/settle.rs src/ledger/** src/stages/book.rs
FUZZ_TARGETS ?= start_session retry_after
export CARGO

.PHONY: help demo test image test-4 simulate chaos chaos-tests dead-replay bodies bench lint policies deny fuzz mutants schemas metrics dashboard chart chart-files release clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the whole way of one session, on a real RabbitMQ and the sandbox
	@$(CARGO) build --locked
	scripts/broker with $(CARGO) run --quiet --locked -- demo

test: ## all tests, minutes of broken brokers and networks among them, on a real RabbitMQ; TESTS="name …" for some of them
	@scripts/broker ensure
	command -v redis-server >/dev/null || scripts/apt-install redis-server
	command -v promtool >/dev/null || scripts/apt-install prometheus
	command -v amtool >/dev/null || scripts/apt-install prometheus-alertmanager
	ICW_TEST_PYTHON=$$(scripts/python-env)
	export ICW_TEST_PYTHON
	without=''
	if [ "$$(id -u)" -eq 0 ] && [ -e /etc/debian_version ]; then
	  for tool in buildah mmdebstrap strip podman runc catatonit; do
	    command -v "$$tool" >/dev/null || { scripts/apt-install buildah mmdebstrap binutils podman runc conmon catatonit; break; }
	  done
	else
	  echo 'not as root on Debian: the tests of the image and of the chart in a pod are left out'
	  without='--skip operators::image --skip operators::pod'
	fi
	for version in 3.17 4.3; do ICW_HELM=$$version scripts/helm version --short >/dev/null; done
	$(CARGO) test --locked --all-targets --no-run
	scripts/broker native || { echo 'no RabbitMQ on this machine itself: the tests of a cluster are left out'; without="$$without --skip chaos::cluster"; }
	scripts/broker with $(CARGO) test --locked --all-targets -- $$without $(TESTS)
	if [ -z "$(TESTS)" ]; then $(CARGO) test --locked --doc; fi

image: ## build the image with Docker, Podman or buildah; IMAGE_BINARY=path puts a ready binary in place of the build
	@scripts/image

test-4: ## the promises on RabbitMQ 4.0, in a root of its own that is made as root and once
	@export ICW_BROKER=4.0
	scripts/broker ensure
	command -v redis-server >/dev/null || scripts/apt-install redis-server
	ICW_TEST_PYTHON=$$(scripts/python-env)
	export ICW_TEST_PYTHON
	scripts/broker with $(CARGO) test --locked --test main $(if $(TESTS),$(TESTS),promises)

simulate: ## SEEDS (1000000) histories of a simulated world, from seed FIRST (0) on; SEED=n for all steps of one
	@export ICW_SIM_SEEDS=$(SEEDS) ICW_SIM_FIRST=$(FIRST) ICW_SIM_SEED=$(SEED)
	$(CARGO) test --locked --profile simulate --lib simulation_of_many_seeds -- --nocapture

chaos-tests: ## of the tests, those that break brokers, networks and workers under load
	@scripts/broker ensure
	command -v redis-server >/dev/null || scripts/apt-install redis-server
	scripts/broker with $(CARGO) test --locked --test main chaos

# With one worker its ledger is a file; with more (CHAOS_WORKERS) they share a Redis.
chaos: ## CHAOS_EVENTS (100000) under CHAOS_KILLS (50) and CHAOS_RESTARTS (20); the report goes to target/chaos.md, .json
	@scripts/broker ensure
	if [ "$(CHAOS_WORKERS)" -gt 1 ]; then command -v redis-server >/dev/null || scripts/apt-install redis-server; fi
	export CHAOS_EVENTS=$(CHAOS_EVENTS) CHAOS_KILLS=$(CHAOS_KILLS) CHAOS_RESTARTS=$(CHAOS_RESTARTS)
	export CHAOS_SEED=$(CHAOS_SEED) CHAOS_WORKERS=$(CHAOS_WORKERS) CHAOS_REPORT=$(CHAOS_REPORT)
	$(CARGO) test --locked --test main chaos_of_every_kind_at_once -- --nocapture
	cat $(CHAOS_REPORT).md

# Optimised, with the checks of a debug build. Each test prints its seed; the same seed makes the same cases.
bodies: ## BODIES (10000000) through the decoders, ANSWERS (1000000) through the reader, CALLS (100000) through HTTP
	@export ICW_BODIES=$(BODIES) ICW_ANSWERS=$(ANSWERS) ICW_CALLS=$(CALLS)
	if [ -n "$(BODIES_SEED)" ]; then export ICW_TEST_SEED=$(BODIES_SEED); fi
	CARGO_PROFILE_DEV_OPT_LEVEL=2 $(CARGO) test --locked --test main random:: -- --nocapture --test-threads 1

bench: ## CPU per event against a plain baseline, BENCH_ROUNDS (5) of BENCH_EVENTS (5000)
	@scripts/broker ensure
	scripts/broker with $(CARGO) bench --locked --bench cpu_per_event

dead-replay: ## `dead replay` of DEAD_LETTERS (100000), killed twice and run again
	@scripts/broker ensure
	export DEAD_LETTERS=$(DEAD_LETTERS)
	$(CARGO) test --locked --test main many_letters_killed_half_way -- --nocapture

lint: ## formatting, clippy and documentation, warnings refused
	@$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items

policies: ## a second opinion on what the chart renders: checkov's policies, with the exceptions that scripts/policies gives reasons for
	@scripts/policies

deny: ## licences, sources and advisories of the dependencies
	@scripts/deny

# --sanitizer none and RUSTC_BOOTSTRAP: the coverage that steers libFuzzer is an unstable option of a stable
# compiler; the crate has no unsafe code for a sanitizer to watch.
fuzz: ## each fuzz target for FUZZ_SECONDS (60)
	@command -v c++ >/dev/null || scripts/apt-install g++
	$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --quiet --locked --version 0.13.2 cargo-fuzz
	for target in $(FUZZ_TARGETS); do
	  RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --sanitizer none "$$target" -- \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -timeout=5 -print_final_stats=1
	done

# In a copy of this folder: builds and tests it once for each of some 330 small changes to the files where a mistake loses or
# repeats a message. What no test notices is printed and left in target/mutants.out; .cargo/mutants.toml says what can't be.
mutants: ## whether tests notice changes to retry, outcome, settling and the ledger; hours on two cores
	@command -v redis-server >/dev/null || scripts/apt-install redis-server
	$(CARGO) mutants --version >/dev/null 2>&1 || $(CARGO) install --quiet --locked --version 27.1.0 cargo-mutants
	export ICW_SIM_SEEDS=300 CARGO_PROFILE_DEV_DEBUG=0
	$(CARGO) mutants -o target -C=--locked -C=--lib -C=--test=main $(foreach file,$(MUTATED),-f '$(file)') \
	  -- -- --skip promises:: retry:: outcome:: settle:: ledger:: book:: simulation::

release: ## VERSION in all places, SBOM, package of the chart; says what to push
	@scripts/release "$(VERSION)"

schemas: ## write config/schemas anew from the program's types
	@$(CARGO) run --quiet --locked -- schema --write config/schemas

metrics: ## write config/metrics.md anew from the program
	@ICW_WRITE_METRICS=1 $(CARGO) test --quiet --locked --lib the_list_in_the_repository

dashboard: ## write the chart's Grafana dashboard anew from scripts/dashboard
	@scripts/dashboard >charts/instant-connect-worker/files/dashboard.json

# The settings' schema is the program's: a change of settings changes the chart.
chart-files: ## write the chart's README.md, values.schema.json and files/settings.json anew from their sources
	@python=$$(scripts/python-env)
	schema=$$(mktemp)
	trap 'rm -f "$$schema"' EXIT
	$(CARGO) run --quiet --locked -- schema --config >"$$schema"
	"$$python" scripts/chart-files "$$schema" charts/instant-connect-worker

chart: ## the chart's tests alone: both Helms, Kubernetes' schemas, refusals, rules; no cluster
	@command -v promtool >/dev/null || scripts/apt-install prometheus
	command -v amtool >/dev/null || scripts/apt-install prometheus-alertmanager
	ICW_TEST_PYTHON=$$(scripts/python-env)
	export ICW_TEST_PYTHON
	for version in 3.17 4.3; do ICW_HELM=$$version scripts/helm version --short >/dev/null; done
	$(CARGO) test --locked --test chart $(TESTS)

clean: ## delete what the targets above made in this folder
	@$(CARGO) clean
	rm -rf .venv fuzz/target fuzz/corpus fuzz/artifacts
