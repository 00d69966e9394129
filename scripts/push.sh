#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# "make push": pushes the images of "make release" to a registry, and signs them if
# SIGN is set:
#
#   scripts/push.sh VERSION REGISTRY/REPOSITORY
#
# The plugin's image gets this name, and the client's the same with "-client".
# The credential comes from $REGISTRY_USERNAME and $REGISTRY_PASSWORD if they are
# set, and else from the user's Docker config. The signature is keyless: cosign
# asks for your identity, or takes the one of GitHub Actions.
. "$(dirname "$0")/lib.sh"

if [ $# != 2 ] || [ -z "$2" ]; then
  die "IMAGE is missing; for example: make push IMAGE=registry.example.com/plugins/regcred"
fi
[ -f dist/oci/regcred/index.json ] || die "there is no dist/oci: run \"make release\" first"
# A repository has no capital letters; the name of a GitHub user may have some.
image=$(printf %s "$2" | tr '[:upper:]' '[:lower:]')

if [ -n "${REGISTRY_PASSWORD:-}" ]; then
  DOCKER_CONFIG=$(mktemp -d)
  export DOCKER_CONFIG
  trap 'rm -rf "$DOCKER_CONFIG"' EXIT
  printf %s "$REGISTRY_PASSWORD" |
    .bin/crane auth login "${image%%/*}" --username="${REGISTRY_USERNAME:-}" --password-stdin >/dev/null 2>&1 ||
    die "cannot write a Docker config for ${image%%/*}"
fi
push() { # FOLDER IMAGE
  local pushed
  pushed=$(.bin/crane push "$1" "$2")
  echo "$pushed"
  if [ -n "${SIGN:-}" ]; then
    cosign sign --yes "$pushed"
  fi
}
push dist/oci/vault-plugin-secrets-regcred "$image:$1"
push dist/oci/regcred "$image-client:$1"
