#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Runs each fuzzer of the module with a number of inputs: scripts/fuzz.sh 20000x
. "$(dirname "$0")/lib.sh"

[ $# = 1 ] || die "usage: scripts/fuzz.sh NUMBERx"
grep -rn --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*' backend | while IFS=: read -r file _ fuzzer; do
  "${GO:-go}" test -run='^$' -fuzz="^${fuzzer#func }\$" -fuzztime="$1" "./$(dirname "$file")"
done
