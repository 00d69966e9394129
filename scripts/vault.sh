#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Makes .bin/vault a link to a Vault or OpenBao to test with: $VAULT_BIN, else
# the one that is there, else one on PATH, else Vault built from its Go module
# to .bin/vault-built. With VAULT_BIN=build it is the built one in any case.
. "$(dirname "$0")/lib.sh"

built() {
  if [ ! -x .bin/vault-built ] || [ tests/tools/vault/go.sum -nt .bin/vault-built ]; then
    # The commit and the date are those of the release; without a date Vault
    # makes one up.
    local version=github.com/hashicorp/vault/version
    go_build vault-built tests/tools/vault -tags minimal -ldflags="-s -w \
      -X $version.GitCommit=818ca8b3575ea937ca48b640baf35e1b2ede1833 -X $version.BuildDate=2025-10-22T02:33:18Z" \
      github.com/hashicorp/vault
  fi
  ln -sfn vault-built .bin/vault
}

# use PROGRAM: it may be what .bin/vault is already.
use() {
  local program=$1
  case $program in /*) ;; *) program=$PWD/$program ;; esac
  [ "$program" -ef .bin/vault ] || ln -sfn "$program" .bin/vault
}

mkdir -p .bin
if [ "${VAULT_BIN:-}" = build ]; then
  built
elif [ -n "${VAULT_BIN:-}" ]; then
  program=$(command -v "$VAULT_BIN") || die "VAULT_BIN=$VAULT_BIN is not a program; VAULT_BIN=build builds Vault from source"
  use "$program"
elif [ -x .bin/vault ]; then
  :
elif program=$(command -v vault || command -v bao); then
  use "$program"
else
  built
fi
