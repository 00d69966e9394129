#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Makes .bin/vault a link to the Vault or OpenBao to test with: $VAULT_BIN, or
# else the present .bin/vault, or else one on PATH, or else a Vault built from its
# Go module to .bin/vault-built. VAULT_BIN=build takes the built one in any case.
. "$(dirname "$0")/lib.sh"

built() {
  if [ ! -x .bin/vault-built ] || [ tests/tools/vault/go.sum -nt .bin/vault-built ]; then
    # The commit and the date of the release. Without a date, Vault invents one.
    local version=github.com/hashicorp/vault/version
    go_build vault-built tests/tools/vault -tags minimal -ldflags="-s -w \
      -X $version.GitCommit=818ca8b3575ea937ca48b640baf35e1b2ede1833 -X $version.BuildDate=2025-10-22T02:33:18Z" \
      github.com/hashicorp/vault
  fi
  ln -sfn vault-built .bin/vault
}

# use PROGRAM: links .bin/vault to it, unless .bin/vault is the same file already.
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
