#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Builds an earlier version of the plugin, and tests a roll-back to it and forward
# again on a real Vault:
#
#   scripts/roll-back.sh COMMIT
. "$(dirname "$0")/lib.sh"

[ $# = 1 ] || die "usage: scripts/roll-back.sh COMMIT"
commit=$(git rev-parse --short=7 "$1")
version=v0.0.0-$commit
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

git clone -q . "$dir/source"
git -C "$dir/source" checkout -q "$commit"
(cd "$dir/source" && CGO_ENABLED=0 "${GO:-go}" build -trimpath -ldflags="-s -w -X main.version=$version" \
  -o "$dir/plugin" ./cmd/vault-plugin-secrets-regcred)

cd tests && "${GO:-go}" test -count=1 -v -run='^TestRollBackToAnEarlierBuild$' . -args \
  -earlier-plugin="$dir/plugin" -earlier-version="$version"
