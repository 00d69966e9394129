#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Writes the bill of materials of a program: the Go modules that it was built from,
# as the program itself records them.
#
#   scripts/bill.sh VERSION PROGRAM FILE
#
# "make release" and .goreleaser.yaml call it, in different folders.
set -euo pipefail

version=$1 program=$2 file=$3
PATH=$(dirname "$0")/../.bin:$PATH
if ! said=$(cyclonedx-gomod bin -json -std -noserial -notimestamp -version "$version" -output "$file" "$program" 2>&1); then
  echo "no bill of materials for $program: $said" >&2
  exit 1
fi
# The client takes the plugin's module from this repository, by its folder.
module=vault-plugin-secrets-regcred
sed "s#golang/\.\./\.\./@(devel)#golang/$module@$version#g
  s#\"name\": \"\.\./\.\./\"#\"name\": \"$module\"#
  s#\"version\": \"(devel)\"#\"version\": \"$version\"#" "$file" >"$file.new"
mv "$file.new" "$file"
