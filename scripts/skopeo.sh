#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Puts skopeo at .bin/skopeo: the one on PATH, else Debian's. It cannot be
# built from its Go module, which the module proxy does not serve.
. "$(dirname "$0")/lib.sh"

[ -x .bin/skopeo ] && exit 0
mkdir -p .bin
if ! command -v skopeo >/dev/null; then
  sudo=
  [ "$(id -u)" = 0 ] || sudo="sudo -n"
  command -v apt-get >/dev/null || die "skopeo is missing: install it with your system's packages (the tests pull an image with it)"
  echo "installing skopeo from the system's packages ..."
  # shellcheck disable=SC2086 # empty for root
  { $sudo apt-get update -qq && $sudo apt-get install -qq -y --no-install-recommends skopeo; } >/dev/null ||
    die "skopeo is missing, and installing it failed: sudo apt-get install skopeo"
fi
ln -sfn "$(command -v skopeo)" .bin/skopeo
