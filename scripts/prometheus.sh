#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Puts prometheus and promtool at .bin.
. "$(dirname "$0")/lib.sh"

unpacked_tool prometheus prometheus "a test scrapes the metrics with it"
unpacked_tool promtool prometheus "it checks the rules in examples/monitoring"
