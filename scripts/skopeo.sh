#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Puts skopeo at .bin/skopeo. It cannot be built from its Go module, which the
# module proxy does not serve.
. "$(dirname "$0")/lib.sh"

system_tool skopeo "the tests pull an image with it"
