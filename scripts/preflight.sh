#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Checks that this node has the program that Vault or OpenBao will start. Run it on
# every node before a reload, a restart or a step-down:
#
#   preflight.sh PLUGIN_DIRECTORY [VERSION]
#
# VERSION is the registered version that the mount will be set to; without it, the
# one that the mount is set to now. It needs the vault (or bao) program, its address
# and a token as the program finds them, and the rights of the policy
# platform-engineer. It changes nothing. It exits with 1 if Vault would not start the
# program, and says why.
#
# $MOUNT is the path of the mount, and $PLUGIN the name in the plugin catalog.
set -eu

mount=${MOUNT:-regcred}
mount=${mount%/}
plugin=${PLUGIN:-vault-plugin-secrets-regcred}

fail() {
  echo "FAIL: $*" >&2
  exit 1
}

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: preflight.sh PLUGIN_DIRECTORY [VERSION]" >&2
  exit 2
fi
vault=$(command -v vault || command -v bao) || fail "neither vault nor bao is on PATH"
directory=$(cd -P "$1" 2>/dev/null && pwd) || fail "$1: there is no such directory on this node; the server's plugin_directory names it"

version=${2:-}
if [ -z "$version" ]; then
  version=$("$vault" read -field=plugin_version "sys/mounts/$mount") ||
    fail "the mount $mount/ cannot be read; see the error above. \$MOUNT names another mount"
fi

# catalog FIELD prints a field of the entry in the plugin catalog.
catalog() {
  "$vault" plugin info -version="$version" -field="$1" secret "$plugin"
}
registered=$(catalog sha256) ||
  fail "the plugin catalog has no $plugin ${version:-without a version}, or cannot be read; see the error above. \"vault plugin register\" comes first"
command=$(catalog command)
file=$directory/$command

[ -e "$file" ] || fail "$file: there is no such file on this node; copy the program there"
[ -f "$file" ] || fail "$file: is not a file"
real=$(readlink -f "$file")
[ "${real%/*}" = "$directory" ] || fail "$file: is a link to $real, which is outside the plugin directory, and Vault starts nothing from there; copy the program"
[ -r "$file" ] || fail "$file: cannot be read; make it readable for the user that Vault runs as: chmod 0755 $file"
if command -v sha256sum >/dev/null; then
  sum=$(sha256sum "$file")
else
  sum=$(shasum -a 256 "$file")
fi
sum=${sum%% *}
[ "$sum" = "$registered" ] ||
  fail "$file: has the checksum $sum, and the catalog has $registered for $version: the file was copied in part, replaced, or is for another platform"
[ -x "$file" ] || fail "$file: cannot be executed: chmod 0755 $file"
reported=$("$file" -version) || fail "$file: does not start on this node; is it for another platform, or is the volume mounted with noexec?"
[ -z "$version" ] || [ "$reported" = "$version" ] ||
  fail "$file: reports the version $reported and is registered as $version; Vault refuses that"
echo "ok: $file is $reported, with the registered checksum $registered"
