#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Runs each fuzzer of the module with a number of inputs: scripts/fuzz.sh 20000x
# A fuzzer whose inputs take long gets fewer.
. "$(dirname "$0")/lib.sh"

[[ $# = 1 && $1 =~ ^[1-9][0-9]*x$ ]] || die "usage: scripts/fuzz.sh NUMBERx"

# share FUZZER: prints by how much to divide the number of inputs.
share() {
  case $1 in
    FuzzRequest | FuzzRequests | FuzzStored | FuzzMinted) echo 40 ;; # each input makes a mount
    FuzzAnswersOf* | FuzzVerify | FuzzRedact | FuzzSanitizeHidesTheSecret) echo 10 ;;
    *) echo 1 ;;
  esac
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cache=$("${GO:-go}" env GOCACHE)/fuzz
grep -rl --include='*_test.go' '^func Fuzz' backend | xargs -n 1 dirname | sort -u | while read -r package; do
  # Build once for all fuzzers of a package.
  "${GO:-go}" test -c -fuzz=. -o "$work/fuzz.test" "./$package"
  import=$("${GO:-go}" list "./$package")
  grep -ho '^func Fuzz[A-Za-z0-9_]*' "$package"/*_test.go | while read -r _ fuzzer; do
    inputs=$((${1%x} / $(share "$fuzzer")))
    echo "$fuzzer: $inputs inputs"
    # Run in the folder of the package, so that a failing input is stored below its testdata.
    (cd "$package" && "$work/fuzz.test" -test.run='^$' -test.fuzz="^$fuzzer\$" -test.fuzztime="$((inputs > 0 ? inputs : 1))x" -test.fuzzcachedir="$cache/$import")
  done
done
