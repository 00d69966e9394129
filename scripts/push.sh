#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# "make push": the image of "make release" to a registry, and its signature if
# SIGN is set (keyless: cosign asks who you are, or GitHub Actions says it).
#
#   scripts/push.sh VERSION REGISTRY/REPOSITORY
#
# Who may push is said by a Docker config as usual, or by $REGISTRY_USERNAME and
# $REGISTRY_PASSWORD.
. "$(dirname "$0")/lib.sh"

if [ $# != 2 ] || [ -z "$2" ]; then
  die "which repository? for example: make push IMAGE=registry.example.com/plugins/regcred"
fi
[ -f dist/oci/index.json ] || die "there is no dist/oci: run \"make release\" first"
# Repositories have no capitals, as names of users do.
image=$(printf %s "$2" | tr '[:upper:]' '[:lower:]')

if [ -n "${REGISTRY_PASSWORD:-}" ]; then
  DOCKER_CONFIG=$(mktemp -d)
  export DOCKER_CONFIG
  trap 'rm -rf "$DOCKER_CONFIG"' EXIT
  printf %s "$REGISTRY_PASSWORD" |
    .bin/crane auth login "${image%%/*}" --username="${REGISTRY_USERNAME:-}" --password-stdin >/dev/null 2>&1 ||
    die "cannot write a Docker config for ${image%%/*}"
fi
pushed=$(.bin/crane push dist/oci "$image:$1")
echo "$pushed"
if [ -n "${SIGN:-}" ]; then
  cosign sign --yes "$pushed"
fi
