#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Puts shellcheck, a Haskell program, at .bin/shellcheck.
. "$(dirname "$0")/lib.sh"

system_tool shellcheck "\"make lint\" checks the scripts with it"
