#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Prepares this machine for a kubelet that runs containers: requires root, and
# installs Debian's containerd and runc if they are missing.
. "$(dirname "$0")/lib.sh"

[ "$(uname -s)" = Linux ] || die "a kubelet runs only on Linux"
[ "$(id -u)" = 0 ] || die "a kubelet needs root: sudo make e2e-kubelet, or run it in a virtual machine"

missing=()
for program in containerd containerd-shim-runc-v2 ctr runc nsenter; do
  command -v "$program" >/dev/null || missing+=("$program")
done
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null ||
    die "missing: ${missing[*]}; install containerd, runc and util-linux with your system's packages"
  echo "installing containerd and runc from the system's packages ..."
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends containerd runc util-linux; } >/dev/null ||
    die "missing: ${missing[*]}; installing them failed: apt-get install containerd runc util-linux"
fi
