#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Makes a build of the plugin fill a mount, and writes a dump of its storage:
#
#   scripts/dump-storage.sh COMMIT [KINDS]
#
# tests/testdata/storage/README.md says when to do so.
. "$(dirname "$0")/lib.sh"

[ $# = 1 ] || [ $# = 2 ] || die "usage: scripts/dump-storage.sh COMMIT [KINDS]"
build=$(git describe --tags --exact-match "$1" 2>/dev/null || git rev-parse --short=7 "$1")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

git clone -q . "$dir/source"
git -C "$dir/source" checkout -q "$build"
(cd "$dir/source" && CGO_ENABLED=0 "${GO:-go}" build -trimpath -ldflags="-s -w -X main.version=v0.0.0-$build" \
  -o "$dir/plugin" ./cmd/vault-plugin-secrets-regcred)

dump=$PWD/tests/testdata/storage/$build.json
(cd tests && "${GO:-go}" test -count=1 -run='^TestDumpStorage$' . -args \
  -dump-file="$dump" -dump-build="$build" -dump-plugin="$dir/plugin" ${2:+-dump-kinds="$2"})
chmod 0644 "$dump"
