#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# "make goreleaser-check": compares each archive and bill of materials that
# .goreleaser.yaml makes with the one that "make release" made, byte for byte.
. "$(dirname "$0")/lib.sh"

export PATH=$PWD/.bin:$PATH
goreleaser check
VERSION=$1 goreleaser release --snapshot --clean --skip=sign

compared=0
for theirs in dist/goreleaser/*.tar.gz dist/goreleaser/*.zip dist/goreleaser/*.cdx.json; do
  ours=dist/$(basename "$theirs")
  cmp "$ours" "$theirs" || die "$ours: GoReleaser makes a different one"
  compared=$((compared + 1))
done
ours=$(find dist -maxdepth 1 \( -name '*.tar.gz' -o -name '*.zip' -o -name '*.cdx.json' \) | wc -l)
[ "$compared" = "$ours" ] || die "\"make release\" made $ours archives and bills of materials, GoReleaser $compared"
echo "GoReleaser makes the same $compared files."
