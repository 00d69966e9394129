#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Prepares this machine for a kubelet that runs containers: requires root, and
# installs Debian's containerd and runc if they are missing.
. "$(dirname "$0")/lib.sh"

[ "$(uname -s)" = Linux ] || die "a kubelet runs only on Linux"
[ "$(id -u)" = 0 ] || die "a kubelet needs root: sudo make e2e-kubelet, or run it in a virtual machine"

unshare --mount --pid --fork true 2>/dev/null ||
  die "root may make no namespaces here, which containers need: run it in a virtual machine or in a privileged container"
may_make_groups=
for processes in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do
  if [ -w "$processes" ]; then may_make_groups=1; fi
done
[ -n "$may_make_groups" ] ||
  die "cgroups cannot be written here, which containers need: run it in a virtual machine or in a privileged container"

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
