#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Prints the version of this source for "make build", from git describe:
#
#   v0.2.0                   at the tag v0.2.0
#   v0.2.1-dev.5.gabc1234    five commits after it: newer than v0.2.0, older than v0.2.1
#   v0.1.0-dev.5.gabc1234    at the fifth commit, where there is no tag
#   v0.1.0-dev               where there is no git, as in an archive of the source
#
# With changes that are not committed it ends in ".dirty".
set -euo pipefail
unset CDPATH
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

next=v0.1.0 # the version to which commits without a tag lead

if [ "$(git rev-parse --show-toplevel 2>/dev/null)" != "$PWD" ] || ! commit=$(git rev-parse --short=7 HEAD 2>/dev/null); then
  echo "$next-dev"
  exit
fi
dirty=
if ! git diff --quiet HEAD; then dirty=.dirty; fi

semantic='^(v[0-9]+\.[0-9]+\.)([0-9]+)(-[0-9A-Za-z.-]+)?$'
tag=$(git describe --tags --abbrev=0 --match='v[0-9]*' 2>/dev/null) || tag=
if ! [[ $tag =~ $semantic ]]; then
  echo "$next-dev.$(git rev-list --count HEAD).g$commit$dirty"
  exit
fi
since=$(git rev-list --count "$tag..HEAD")
if [ "$since" = 0 ] && [ -z "$dirty" ]; then
  echo "$tag"
elif [ -n "${BASH_REMATCH[3]}" ]; then
  # A number first: Vault takes v0.2.0-rc.1.dev for lower than v0.2.0-rc.1.
  echo "$tag.$since.g$commit$dirty"
else
  echo "${BASH_REMATCH[1]}$((BASH_REMATCH[2] + 1))-dev.$since.g$commit$dirty"
fi
