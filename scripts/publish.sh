#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# "make publish": signs the checksums of "make release", and drafts a release on
# GitHub with all files in dist/ and the version's section of CHANGELOG.md. The
# signature is keyless: cosign asks for your identity, or takes the one of GitHub
# Actions.
. "$(dirname "$0")/lib.sh"

version=$1
[ -f "dist/vault-plugin-secrets-regcred_${version#v}_oci.tar" ] ||
  die "dist/ does not hold $version: run \"make release VERSION=$version\" first"
notes=$(awk -v title="## ${version#v}" '
  /^## / { inside = index($0 " ", title " ") == 1; next }
  inside' CHANGELOG.md)
[ -n "$notes" ] || die "CHANGELOG.md has no section for ${version#v}"

cosign sign-blob --yes --bundle=dist/SHA256SUMS.sigstore.json dist/SHA256SUMS
find dist -maxdepth 1 -type f -print0 | sort -z |
  xargs -0 gh release create "$version" --draft --verify-tag --title="$version" --notes="$notes"
