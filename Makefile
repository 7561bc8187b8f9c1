# The two main targets are `make demo` and `make test`. Each installs what it needs, and prints what it installs.
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
MUTATED ?= src/retry/** src/outcome.rs src/broker/settle/** src/ledger/** src/stages/deduplicator/**
FUZZ_TARGETS ?= start_session retry_after
INGRESS_SECONDS ?= 600
LOAD_SECONDS ?= 30
BENCH_PROFILE ?= release
export CARGO

.PHONY: help demo test image test-4 simulate chaos chaos-edges chaos-tests dead-replay bodies ingress-fuzz ingress-load bench bench-quick lint policies deny fuzz mutants breakages schemas openapi metrics dashboard chart chart-files release clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## run one session end to end, on a real RabbitMQ and the sandbox
	@$(CARGO) build --locked
	$(CARGO) broker with $(CARGO) run --quiet --locked -- demo

test: ## run all tests, including broker and network fault tests (several minutes), on a real RabbitMQ; TESTS="name …" selects some
	@$(CARGO) broker ensure
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
	  echo 'not running as root on Debian: skipping the tests of the image and of the chart in a pod'
	  without='--skip operators::image --skip operators::pod'
	fi
	for version in 3.17 4.3; do ICW_HELM=$$version scripts/helm version --short >/dev/null; done
	$(CARGO) test --locked --workspace --all-targets --no-run
	ICW_TEST_PRODUCTION=$$(scripts/production)
	export ICW_TEST_PRODUCTION
	$(CARGO) broker native || { echo 'RabbitMQ cannot run on this machine outside containers: skipping the cluster tests'; without="$$without --skip chaos::cluster"; }
	$(CARGO) broker with $(CARGO) test --locked --workspace --all-targets -- $$without $(TESTS)
	if [ -z "$(TESTS)" ]; then
	  scripts/production test
	  $(CARGO) test --locked --workspace --doc
	fi

image: ## build the image with Docker, Podman or buildah; IMAGE_BINARY=path uses a ready binary; FEATURES=sandbox adds the sandbox
	@scripts/image

test-4: ## test the promises on RabbitMQ 4.0; needs root; creates a separate root file system once
	@export ICW_BROKER=4.0
	$(CARGO) broker ensure
	command -v redis-server >/dev/null || scripts/apt-install redis-server
	ICW_TEST_PYTHON=$$(scripts/python-env)
	export ICW_TEST_PYTHON
	$(CARGO) broker with $(CARGO) test --locked --test main $(if $(TESTS),$(TESTS),promises)

simulate: ## run SEEDS (1000000) simulated histories starting at FIRST (0); SEED=n traces one
	@export ICW_SIM_SEEDS=$(SEEDS) ICW_SIM_FIRST=$(FIRST) ICW_SIM_SEED=$(SEED)
	$(CARGO) test --locked --profile simulate --test simulation simulation_of_many_seeds -- --nocapture

chaos-tests: ## run only the tests that break brokers, networks and workers under load
	@$(CARGO) broker ensure
	command -v redis-server >/dev/null || scripts/apt-install redis-server
	$(CARGO) broker with $(CARGO) test --locked --test main chaos

# One worker has a file ledger; several workers (CHAOS_WORKERS) share a Redis.
chaos: ## send CHAOS_EVENTS (100000) during CHAOS_KILLS (50) and CHAOS_RESTARTS (20); writes target/chaos.md and .json
	@$(CARGO) broker ensure
	if [ "$(CHAOS_WORKERS)" -gt 1 ]; then command -v redis-server >/dev/null || scripts/apt-install redis-server; fi
	export CHAOS_EVENTS=$(CHAOS_EVENTS) CHAOS_KILLS=$(CHAOS_KILLS) CHAOS_RESTARTS=$(CHAOS_RESTARTS)
	export CHAOS_SEED=$(CHAOS_SEED) CHAOS_WORKERS=$(CHAOS_WORKERS) CHAOS_REPORT=$(CHAOS_REPORT)
	$(CARGO) test --locked --test main chaos_of_every_kind_at_once -- --nocapture
	cat $(CHAOS_REPORT).md

# Two workers with the stages and two ingresses share a Redis. CHAOS_WORKERS has no effect.
chaos-edges: ## the same over HTTP and Webex Connect: CHAOS_EVENTS (100000) requests; writes target/chaos-edges.md and .json
	@$(CARGO) broker ensure
	command -v redis-server >/dev/null || scripts/apt-install redis-server
	export CHAOS_EVENTS=$(CHAOS_EVENTS) CHAOS_KILLS=$(CHAOS_KILLS) CHAOS_RESTARTS=$(CHAOS_RESTARTS)
	export CHAOS_SEED=$(CHAOS_SEED) CHAOS_REPORT=$(CHAOS_REPORT)
	$(CARGO) test --locked --test main chaos_over_http -- --nocapture
	cat $(CHAOS_REPORT)-edges.md

# Optimised, with the checks of a debug build. Each test prints its seed; BODIES_SEED repeats the same cases.
bodies: ## random tests: BODIES (10000000) for the decoders, ANSWERS (1000000) for the response reader, CALLS (100000) over HTTP
	@export ICW_BODIES=$(BODIES) ICW_ANSWERS=$(ANSWERS) ICW_CALLS=$(CALLS)
	if [ -n "$(BODIES_SEED)" ]; then export ICW_TEST_SEED=$(BODIES_SEED); fi
	CARGO_PROFILE_DEV_OPT_LEVEL=2 $(CARGO) test --locked --test main random:: -- --nocapture --test-threads 1

# Schemathesis is installed into target/ingress-fuzz.
ingress-fuzz: ## send random requests to the ingress for INGRESS_SECONDS (600), made by Schemathesis from GET /openapi.json
	@$(CARGO) broker ensure
	if ! cmp -s scripts/ingress-fuzz.txt target/ingress-fuzz/made-from; then
	  python=$$(scripts/python-env)
	  rm -rf target/ingress-fuzz
	  "$$python" -m venv target/ingress-fuzz
	  target/ingress-fuzz/bin/python -m pip install --quiet --disable-pip-version-check --no-input -r scripts/ingress-fuzz.txt
	  cp scripts/ingress-fuzz.txt target/ingress-fuzz/made-from
	fi
	$(CARGO) build --locked
	ICW_PROGRAM=$(CURDIR)/target/debug/instant-connect-worker $(CARGO) broker with --private scripts/ingress-attack fuzz $(INGRESS_SECONDS)

ingress-load: ## load the ingress with wrk at full speed, three times LOAD_SECONDS (30); responses, memory and the queue must be right
	@$(CARGO) broker ensure
	command -v wrk >/dev/null || scripts/apt-install wrk
	$(CARGO) build --locked --release
	$(CARGO) broker with --private scripts/ingress-attack load $(LOAD_SECONDS)

# BENCH_PROFILE=bench builds faster, without link-time optimisation.
bench: ## measure CPU, throughput, latency, memory and start against a plain baseline; writes target/bench; under 15 minutes after the build
	@$(CARGO) broker ensure
	$(CARGO) bench --locked --profile $(BENCH_PROFILE) --bench cpu_per_event --no-run
	$(CARGO) broker with --private $(CARGO) bench --locked --profile $(BENCH_PROFILE) --bench cpu_per_event

bench-quick: export BENCH_EVENTS := 2000
bench-quick: export BENCH_ROUNDS := 3
bench-quick: export BENCH_SECONDS := 5
bench-quick: export BENCH_STARTS := 3
bench-quick: export BENCH_CONTENDERS := plain,defaults
bench-quick: bench ## the same with fewer events, and only the baseline and the defaults; under 3 minutes after the build

dead-replay: ## test `dead replay` with DEAD_LETTERS (100000), killed twice and run again
	@$(CARGO) broker ensure
	export DEAD_LETTERS=$(DEAD_LETTERS)
	$(CARGO) test --locked --test main replay_killed_half_way -- --nocapture

lint: ## check formatting, clippy and documentation; a warning is an error
	@$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features --lib --bins --test production -- -D warnings
	export RUSTDOCFLAGS='-D warnings'
	$(CARGO) doc --locked --no-default-features --no-deps --document-private-items
	$(CARGO) doc --locked --workspace --no-deps --document-private-items

policies: ## check the rendered chart with checkov's policies; scripts/policies lists the exceptions with their reasons
	@scripts/policies

deny: ## check licences, sources and advisories of the dependencies
	@scripts/deny

# RUSTC_BOOTSTRAP: libFuzzer needs coverage data, which is an unstable option of the stable compiler.
# --sanitizer none: the crate has no unsafe code that a sanitizer could check.
fuzz: ## run each fuzz target for FUZZ_SECONDS (60)
	@command -v c++ >/dev/null || scripts/apt-install g++
	$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --quiet --locked --version 0.13.2 cargo-fuzz
	for target in $(FUZZ_TARGETS); do
	  RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --sanitizer none "$$target" -- \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -timeout=5 -print_final_stats=1
	done

# Works in a copy of this folder. Builds and tests about 330 small changes to the files in which a mistake loses or repeats a message.
# Changes that no test noticed are printed and left in target/mutants.out. .cargo/mutants.toml lists those that no test can notice.
mutants: ## check that tests notice changes to retry, outcome, settling and the ledger; takes hours on two cores
	@command -v redis-server >/dev/null || scripts/apt-install redis-server
	$(CARGO) mutants --version >/dev/null 2>&1 || $(CARGO) install --quiet --locked --version 27.1.0 cargo-mutants
	export ICW_SIM_SEEDS=300 CARGO_PROFILE_DEV_DEBUG=0
	$(CARGO) mutants -o target -C=--locked -C=--lib -C=--test=main -C=--test=simulation $(foreach file,$(MUTATED),-f '$(file)') \
	  -- -- --skip promises:: retry:: outcome:: settle:: ledger:: deduplicator:: seeds:: one_consumer::

# In a copy of this folder. The script lists the changes, with the rule that found each.
breakages: ## check that the simulation finds mistakes in supervisor, publisher, senders and ingress, with at most SEEDS (2000) seeds
	@SEEDS=$(if $(filter-out file,$(origin SEEDS)),$(SEEDS)) scripts/breakages $(TESTS)

release: ## write VERSION to all places, make the SBOM and the chart's package, and print what to push
	@scripts/release "$(VERSION)"

schemas: ## regenerate config/schemas from the program's types
	@$(CARGO) run --quiet --locked -- schema --write config/schemas

openapi: ## regenerate config/openapi.json and config/asyncapi.json from the program's types
	@ICW_WRITE_OPENAPI=1 $(CARGO) test --quiet --locked --lib api_json_is_up_to_date

metrics: ## regenerate config/metrics.md from the program
	@ICW_WRITE_METRICS=1 $(CARGO) test --quiet --locked --lib metrics_md_is_up_to_date

dashboard: ## regenerate the chart's Grafana dashboard from scripts/dashboard
	@scripts/dashboard >charts/instant-connect-worker/files/dashboard.json

# The chart contains the program's schema of the settings, so a change of settings changes the chart.
chart-files: ## regenerate the chart's README.md, values.schema.json and files/settings.json from their sources
	@python=$$(scripts/python-env)
	schema=$$(mktemp)
	trap 'rm -f "$$schema"' EXIT
	$(CARGO) run --quiet --locked -- schema --config >"$$schema"
	"$$python" scripts/chart-files "$$schema" charts/instant-connect-worker

chart: ## run only the chart's tests: both Helm versions, Kubernetes' schemas, refused values, rules; needs no cluster
	@command -v promtool >/dev/null || scripts/apt-install prometheus
	command -v amtool >/dev/null || scripts/apt-install prometheus-alertmanager
	ICW_TEST_PYTHON=$$(scripts/python-env)
	export ICW_TEST_PYTHON
	for version in 3.17 4.3; do ICW_HELM=$$version scripts/helm version --short >/dev/null; done
	$(CARGO) test --locked --test chart $(TESTS)

clean: ## delete what the targets above created in this folder
	@$(CARGO) clean
	rm -rf .venv fuzz/target fuzz/corpus fuzz/artifacts
