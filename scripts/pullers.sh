#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Puts docker, podman and buildah at .bin. None of them can be built from its Go
# module alone.
. "$(dirname "$0")/lib.sh"

for program in podman buildah; do
  system_tool "$program" "the tests pull an image with it"
done

# Of docker only the command line: Debian's package would start a daemon.
if [ ! -x .bin/docker ]; then
  mkdir -p .bin
  if command -v docker >/dev/null; then
    ln -sfn "$(command -v docker)" .bin/docker
  else
    command -v apt-get >/dev/null || die "docker is missing: install its command line with your system's packages (the tests pull an image with it)"
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    echo "unpacking docker from the system's packages ..."
    if [ "$(id -u)" = 0 ]; then apt-get update -qq; fi # the lists may be missing, or old
    (cd "$dir" && apt-get download -qq docker.io && dpkg-deb -x docker.io_*.deb .) >/dev/null 2>&1 ||
      die "docker is missing, and unpacking Debian's docker.io failed: try sudo apt-get update"
    install -m 0755 "$dir/usr/bin/docker" .bin/docker
  fi
fi
