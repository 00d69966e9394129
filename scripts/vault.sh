#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Puts a Vault or OpenBao to test with at .bin/vault: $VAULT_BIN, else the one
# that is there, else one on PATH, else Vault built from its Go module.
. "$(dirname "$0")/lib.sh"

mkdir -p .bin
if [ -n "${VAULT_BIN:-}" ]; then
  program=$(command -v "$VAULT_BIN") || die "VAULT_BIN=$VAULT_BIN is not a program"
  ln -sfn "$(realpath "$program")" .bin/vault
elif [ -x .bin/vault ]; then
  :
elif program=$(command -v vault || command -v bao); then
  ln -sfn "$(realpath "$program")" .bin/vault
else
  # The commit and the date are those of the release; without a date Vault
  # makes one up.
  version=github.com/hashicorp/vault/version
  go_build vault tests/tools/vault -tags minimal -ldflags="-s -w \
    -X $version.GitCommit=818ca8b3575ea937ca48b640baf35e1b2ede1833 -X $version.BuildDate=2025-10-22T02:33:18Z" \
    github.com/hashicorp/vault
fi
