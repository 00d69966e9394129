#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Puts docker, podman and buildah at .bin. None of them can be built from its Go
# module alone.
. "$(dirname "$0")/lib.sh"

for program in podman buildah; do
  system_tool "$program" "the tests pull an image with it"
done
unpacked_tool docker docker.io "the tests pull an image with it"
