#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Builds a program that the tests or "make lint" need, from the Go module that
# pins it: scripts/tool.sh kubectl
. "$(dirname "$0")/lib.sh"

small="-s -w"
case ${1:-} in
  registry)
    go_build registry tests/tools/registry -ldflags="$small -X github.com/distribution/distribution/v3/version.version=v3.1.2" \
      github.com/distribution/distribution/v3/cmd/registry
    ;;
  crane) go_build crane tests/tools/registry -ldflags="$small" github.com/google/go-containerregistry/cmd/crane ;;
  kubectl)
    go_build kubectl tests/tools/kubernetes -ldflags="$small -X k8s.io/component-base/version.gitVersion=v1.35.4" \
      k8s.io/kubernetes/cmd/kubectl
    ;;
  kube-apiserver)
    go_build kube-apiserver tests/tools/kubernetes -ldflags="$small -X k8s.io/component-base/version.gitVersion=v1.35.4" \
      k8s.io/kubernetes/cmd/kube-apiserver
    ;;
  kubelet)
    go_build kubelet tests/tools/kubernetes -ldflags="$small -X k8s.io/component-base/version.gitVersion=v1.35.4" \
      k8s.io/kubernetes/cmd/kubelet
    ;;
  etcd) go_build etcd tests/tools/etcd -ldflags="$small" go.etcd.io/etcd/server/v3 ;;
  external-secrets) go_build external-secrets tests/tools/external-secrets -ldflags="$small" github.com/external-secrets/external-secrets ;;
  gitea)
    # SQLite is written in C.
    CGO_ENABLED=1 go_build gitea tests/tools/gitea -tags=sqlite,sqlite_unlock_notify \
      -ldflags="$small -X main.Version=1.26.0" code.gitea.io/gitea
    ;;
  read-kubelet) go_build read-kubelet tests/tools/kubernetes -ldflags="$small" ./read-kubelet ;;
  ask-provider) go_build ask-provider tests/tools/kubernetes -ldflags="$small" ./ask-provider ;;
  read-containers) go_build read-containers tests/tools/containers -ldflags="$small" ./read-containers ;;
  read-vals | read-argocd-vault-plugin) go_build "$1" tests/tools/render -ldflags="$small" "./$1" ;;
  read-flux | read-image-updater) go_build "$1" tests/tools/gitops -ldflags="$small" "./$1" ;;
  bench-floor) CGO_ENABLED=0 go_build bench-floor tests -ldflags="$small" ./bench/floor ;;
  helm)
    # What "helm template" takes the cluster's version to be, unless it is told.
    for package in chartutil lint/rules; do
      small+=" -X helm.sh/helm/v3/pkg/$package.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/$package.k8sVersionMinor=35"
    done
    go_build helm tests/tools/helm -ldflags="$small" helm.sh/helm/v3/cmd/helm
    ;;
  pause) CGO_ENABLED=0 go_build pause tests -ldflags="$small" ./tools/pause ;;
  standins) CGO_ENABLED=0 go_build standins tests -ldflags="$small" ./tools/standins ;;
  pack) CGO_ENABLED=0 go_build pack tests -ldflags="$small" ./tools/pack ;;
  cyclonedx-gomod) go_build cyclonedx-gomod tests/tools/cyclonedx -ldflags="$small" github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod ;;
  goreleaser) go_build goreleaser tests/tools/goreleaser -ldflags="$small" github.com/goreleaser/goreleaser/v2 ;;
  actionlint) go_build actionlint tests/tools/actionlint -ldflags="$small" github.com/rhysd/actionlint/cmd/actionlint ;;
  tofu) go_build tofu tests/tools/opentofu -ldflags="$small" github.com/opentofu/opentofu/cmd/tofu ;;
  terraform-provider-vault)
    go_build terraform-provider-vault tests/tools/terraform-provider-vault -ldflags="$small" github.com/terraform-providers/terraform-provider-vault
    ;;
  gofumpt) go_build gofumpt tests/tools/lint -ldflags="$small" mvdan.cc/gofumpt ;;
  golangci-lint) go_build golangci-lint tests/tools/lint -ldflags="$small" github.com/golangci/golangci-lint/v2/cmd/golangci-lint ;;
  govulncheck) go_build govulncheck tests/tools/govulncheck -ldflags="$small" golang.org/x/vuln/cmd/govulncheck ;;
  *) die "usage: scripts/tool.sh registry|crane|kubectl|kube-apiserver|kubelet|etcd|external-secrets|gitea|helm|read-kubelet|ask-provider|read-containers|read-flux|read-image-updater|read-vals|read-argocd-vault-plugin|bench-floor|pause|standins|pack|cyclonedx-gomod|goreleaser|actionlint|tofu|terraform-provider-vault|gofumpt|golangci-lint|govulncheck" ;;
esac
