# SPDX-License-Identifier: MPL-2.0

# The version that the plugin reports to Vault: semantic, with a leading "v". It
# comes from git, so that builds of two commits have two versions.
ifndef VERSION
VERSION := $(or $(shell scripts/version.sh),$(error scripts/version.sh failed; set VERSION))
endif

# Tests need cgo for the race detector only; nothing that is built does.
export CGO_ENABLED ?= 0

# For "make bench": its size, and variables for the plugin's process.
export BENCH ?= full
export BENCH_ENV ?=

GO     ?= go
# TAGS=no_ecr builds a plugin without the type ecr, which is a quarter smaller.
TAGS ?=
BUILDFLAGS = -trimpath -tags="$(TAGS)" -ldflags="-s -w -X main.version=$(VERSION)"
PLUGIN := bin/vault-plugin-secrets-regcred
CLIENT := bin/regcred
TOOLS  := registry crane gitea kubectl read-kubelet ask-provider read-containers read-flux read-image-updater read-vals read-argocd-vault-plugin
E2E    := $(TOOLS) etcd kube-apiserver external-secrets helm

# The platforms of a release: those of Vault and OpenBao.
PLATFORMS ?= linux/amd64 linux/arm64 linux/arm linux/s390x linux/ppc64le darwin/amd64 darwin/arm64 windows/amd64 freebsd/amd64

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: build vault ## start a real Vault, read a pull secret from it, stop it
	@scripts/demo.sh

.PHONY: dev
dev: build vault ## start the same Vault, leave it running, and say what to type next
	@scripts/dev.sh start

.PHONY: dev-registries
dev-registries: dev .bin/standins ## start a GitLab and a Harbor in memory beside it, to try connections and rotation
	@scripts/dev.sh registries

.PHONY: dev-stop
dev-stop: ## stop what "make dev" and "make dev-registries" started
	@scripts/dev.sh stop

.PHONY: build
build: ## build the plugin, to bin/, of version $VERSION (from git describe)
	@$(GO) build $(BUILDFLAGS) -o $(PLUGIN) ./cmd/vault-plugin-secrets-regcred

.PHONY: client
client: ## build the client for machines that pull, to bin/regcred
	@cd cmd/regcred && $(GO) build $(BUILDFLAGS) -o ../../$(CLIENT) .

.PHONY: vault
vault: ## put a Vault to test with at .bin/vault: $VAULT_BIN, or one on PATH, or built from source
	@scripts/vault.sh

.PHONY: test
test: build client vault tools ## run the unit tests, then test the engine on a real Vault with real clients
	CGO_ENABLED=1 $(GO) test -race -cover -timeout=30m ./...
	$(GO) test -tags no_ecr -run='^TestBuildWithoutECR$$' ./backend
	cd cmd/regcred && CGO_ENABLED=1 $(GO) test -race -cover -timeout=30m ./...
	cd tests && CGO_ENABLED=1 $(GO) test -race -count=1 -parallel=6 -timeout=30m . ./live ./servers ./tools/filecycles

.PHONY: bench
bench: build vault .bin/bench-floor ## measure requests against a floor and Vault's KV, as ratios (Linux); BENCH=short tries it
	cd tests/bench && $(GO) test -count=1 -v -timeout=60m .

.PHONY: bench-overdue
OVERDUE ?= 10000
bench-overdue: build vault ## measure how $OVERDUE roles that became due in an outage are rotated, as ratios (Linux)
	cd tests/bench && $(GO) test -count=1 -v -timeout=60m -run='^TestOverdue$$' -overdue=$(OVERDUE) .

.PHONY: bench-docs
bench-docs: ## put the last result of "make bench" into docs/performance.md
	@cd tests && $(GO) run ./bench/docs

.PHONY: live
SETTINGS ?= live.env
live: ## try a type of connection at a registry of yours: TYPE=quay SETTINGS=live.env ROTATE_ROOT=yes NEW_ROOT=file CONFIRM=yes
	@cd tests && $(GO) build -ldflags="-X main.version=$(VERSION)" -o ../.bin/live ./live
	@.bin/live -type="$(TYPE)" -settings="$(SETTINGS)" -rotate-root="$(ROTATE_ROOT)" -new-root="$(NEW_ROOT)" -confirm="$(CONFIRM)"

.PHONY: crash
crash: build vault killpoints .bin/gitea ## kill the plugin at every step of minting and revoking, 200 times for each type (Linux)
	@cd tests/tools/gitea && $(GO) mod download code.gitea.io/gitea
	cd tests/crash && CGO_ENABLED=1 $(GO) test -race -count=1 -v -parallel=4 -timeout=40m

.PHONY: killpoints
killpoints: # build the plugin for tests of crashes, to .bin/
	@$(GO) build $(BUILDFLAGS) -tags killpoints -o .bin/regcred-killpoints ./cmd/vault-plugin-secrets-regcred

.PHONY: soak
SOAKTIME ?= 30m
soak: vault .bin/registry ## do everything at once for $SOAKTIME: load, faults of the registry, reloads, seals; then compare with broken registries beside (Linux)
	@$(GO) build $(BUILDFLAGS) -tags killpoints,profile -o .bin/regcred-soak ./cmd/vault-plugin-secrets-regcred
	cd tests/soak && CGO_ENABLED=1 $(GO) test -race -count=1 -v -timeout=0 -soaktime=$(SOAKTIME) $(if $(SOAKSEED),-soakseed=$(SOAKSEED))

.PHONY: e2e
e2e: build client vault killpoints skopeo pullers prometheus $(E2E:%=.bin/%) ## test the Kubernetes consumers, and a cluster of three Vaults that loses its leaders (Linux)
	@cd tests/tools/external-secrets && $(GO) mod download github.com/external-secrets/external-secrets
	cd tests/e2e && CGO_ENABLED=1 $(GO) test -race -count=1 -parallel=8 -timeout=30m -tags e2e

.PHONY: e2e-kubelet
e2e-kubelet: node build client vault skopeo $(TOOLS:%=.bin/%) .bin/etcd .bin/kube-apiserver .bin/kubelet .bin/pause ## run pods with a kubelet and containerd, from private registries, with Secrets and with the credential provider (Linux, root)
	cd tests/e2e && CGO_ENABLED=1 $(GO) test -race -count=1 -parallel=8 -timeout=20m -v -tags e2e,e2e_kubelet -run='^Test(Kubelet|CredentialProvider)$$'

.PHONY: release
release: .bin/pack .bin/cyclonedx-gomod ## build archives, images, bills of materials, the chart and checksums for $PLATFORMS, to dist/
	@scripts/release.sh $(VERSION) $(PLATFORMS)

.PHONY: release-check
release-check: release vault skopeo .bin/registry .bin/crane .bin/helm ## build a release and test it: built twice, unpacked, pulled, run by a real Vault
	cd tests/release && VERSION=$(VERSION) PLATFORMS="$(PLATFORMS)" $(GO) test -count=1 -timeout=30m

.PHONY: goreleaser-check
goreleaser-check: release .bin/goreleaser ## check that .goreleaser.yaml makes the same release
	@scripts/goreleaser.sh $(VERSION)

.PHONY: push
push: .bin/crane ## push the images in dist/ to $IMAGE, a registry and repository, and $IMAGE-client; sign them with cosign if $SIGN is set
	@scripts/push.sh $(VERSION) "$(IMAGE)"

.PHONY: publish
publish: ## sign the checksums in dist/ with cosign, and draft a release on GitHub with gh
	@scripts/publish.sh $(VERSION)

.PHONY: e2e-terraform
e2e-terraform: build vault .bin/tofu .bin/terraform-provider-vault ## set the engine up, change it and remove it with OpenTofu
	cd tests/terraform && $(GO) test -count=1 -timeout=20m

.PHONY: tools
tools: $(TOOLS:%=.bin/%) skopeo ## build what the tests need beside Vault, to .bin/
	@cd tests/tools/schemas && $(GO) mod download
	@cd tests/tools/gitea && $(GO) mod download code.gitea.io/gitea

.PHONY: all-tools
all-tools: build client vault killpoints tools pullers prometheus node $(E2E:%=.bin/%) .bin/kubelet .bin/pause .bin/pack .bin/cyclonedx-gomod # build what any test needs

.bin/registry .bin/crane: tests/tools/registry/go.sum
.bin/kubectl .bin/kube-apiserver .bin/kubelet: tests/tools/kubernetes/go.sum
.bin/read-kubelet: tests/tools/kubernetes/go.sum tests/tools/kubernetes/read-kubelet/main.go
.bin/ask-provider: tests/tools/kubernetes/go.sum tests/tools/kubernetes/ask-provider/main.go
.bin/read-containers: tests/tools/containers/go.sum tests/tools/containers/read-containers/main.go
.bin/read-flux: tests/tools/gitops/go.sum tests/tools/gitops/read-flux/main.go
.bin/read-image-updater: tests/tools/gitops/go.sum tests/tools/gitops/read-image-updater/main.go
.bin/read-vals: tests/tools/render/go.sum tests/tools/render/read-vals/main.go
.bin/read-argocd-vault-plugin: tests/tools/render/go.sum tests/tools/render/read-argocd-vault-plugin/main.go
.bin/bench-floor: tests/go.sum tests/bench/floor/main.go
.bin/pause: tests/tools/pause/main.go
.bin/standins: tests/tools/standins/main.go $(wildcard backend/issuer/gitlab/gitlabtest/*.go backend/issuer/harbor/harbortest/*.go backend/issuer/issuertest/*.go)
.bin/etcd: tests/tools/etcd/go.sum
.bin/external-secrets: tests/tools/external-secrets/go.sum
.bin/gitea: tests/tools/gitea/go.sum
.bin/helm: tests/tools/helm/go.sum
.bin/gofumpt .bin/golangci-lint: tests/tools/lint/go.sum
.bin/govulncheck: tests/tools/govulncheck/go.sum
.bin/actionlint: tests/tools/actionlint/go.sum
.bin/cyclonedx-gomod: tests/tools/cyclonedx/go.sum
.bin/goreleaser: tests/tools/goreleaser/go.sum
.bin/tofu: tests/tools/opentofu/go.sum
.bin/terraform-provider-vault: tests/tools/terraform-provider-vault/go.sum
.bin/pack: $(wildcard tests/tools/pack/*.go) tests/go.sum
.bin/%: scripts/tool.sh
	@scripts/tool.sh $*

.PHONY: skopeo shellcheck pullers node prometheus
skopeo shellcheck pullers node prometheus:
	@scripts/$@.sh

.PHONY: lint
lint: .bin/gofumpt .bin/golangci-lint .bin/actionlint shellcheck prometheus ## check formatting, go vet, golangci-lint, cycles between files, shellcheck, actionlint and promtool
	@unformatted=$$(.bin/gofumpt -l backend cmd tests); \
		if [ -n "$$unformatted" ]; then echo "not formatted (make fmt mends it):"; echo "$$unformatted"; exit 1; fi
	$(GO) vet -tags killpoints,profile ./...
	$(GO) vet -tags no_ecr ./backend ./cmd/vault-plugin-secrets-regcred
	.bin/golangci-lint run --build-tags killpoints,profile ./...
	cd cmd/regcred && $(GO) vet ./... && ../../.bin/golangci-lint run ./...
	cd tests && $(GO) vet -tags e2e,e2e_kubelet ./... && ../.bin/golangci-lint run --build-tags e2e,e2e_kubelet ./...
	cd tests && $(GO) run ./tools/filecycles -hub=backend ../backend
	.bin/shellcheck scripts/*.sh .ci/run
	.bin/shellcheck --shell=sh examples/*/*.sh
	.bin/actionlint -shellcheck=.bin/shellcheck .github/workflows/*.yml examples/github-actions/workflow.yaml
	.bin/promtool check config --syntax-only examples/monitoring/prometheus.yaml
	.bin/promtool check rules examples/monitoring/rules.yaml
	.bin/promtool test rules examples/monitoring/rules-test.yaml

.PHONY: fmt
fmt: .bin/gofumpt ## format the Go files
	.bin/gofumpt -w backend cmd tests

.PHONY: sequences
# How many random sequences of requests, faults, crashes and clock jumps.
SEQUENCES ?= 10000
sequences: ## random sequences of everything against two registries, and of what needs attention, $SEQUENCES of each
	$(GO) test -count=1 -timeout=30m -run='^Test(Random|Attention)Sequences$$' ./backend -rapid.checks=$(SEQUENCES) -rapid.nofailfile

.PHONY: fuzz
# A number of inputs and no time, because Go sometimes fails a fuzzer at the end of its time.
FUZZTIME ?= 100000x
fuzz: ## run each fuzzer with $FUZZTIME inputs
	@CGO_ENABLED=1 scripts/fuzz.sh $(FUZZTIME)

.PHONY: vulncheck
vulncheck: .bin/govulncheck ## look for known vulnerabilities in the modules of plugin and client (asks vuln.go.dev)
	.bin/govulncheck ./...
	cd cmd/regcred && ../../.bin/govulncheck ./...

.PHONY: clean
clean: dev-stop ## remove what was built
	rm -rf bin .bin .dev dist
