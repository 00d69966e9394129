#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Runs each fuzzer of the module with a number of inputs: scripts/fuzz.sh 20000x
# Those whose inputs take long get fewer.
. "$(dirname "$0")/lib.sh"

[[ $# = 1 && $1 =~ ^[1-9][0-9]*x$ ]] || die "usage: scripts/fuzz.sh NUMBERx"

# share FUZZER: of how many inputs it gets one.
share() {
  case $1 in
    FuzzRequest | FuzzRequests | FuzzStored | FuzzMinted) echo 40 ;; # a mount for each
    FuzzAnswersOf* | FuzzVerify | FuzzRedact | FuzzSanitizeHidesTheSecret) echo 10 ;;
    *) echo 1 ;;
  esac
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cache=$("${GO:-go}" env GOCACHE)/fuzz
grep -rl --include='*_test.go' '^func Fuzz' backend | xargs -n 1 dirname | sort -u | while read -r package; do
  # Linked once for all fuzzers of a package.
  "${GO:-go}" test -c -fuzz=. -o "$work/fuzz.test" "./$package"
  import=$("${GO:-go}" list "./$package")
  grep -ho '^func Fuzz[A-Za-z0-9_]*' "$package"/*_test.go | while read -r _ fuzzer; do
    inputs=$((${1%x} / $(share "$fuzzer")))
    echo "$fuzzer: $inputs inputs"
    # In its folder, where an input that fails is kept below testdata.
    (cd "$package" && "$work/fuzz.test" -test.run='^$' -test.fuzz="^$fuzzer\$" -test.fuzztime="$((inputs > 0 ? inputs : 1))x" -test.fuzzcachedir="$cache/$import")
  done
done
