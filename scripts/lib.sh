# SPDX-License-Identifier: MPL-2.0
# shellcheck shell=bash
#
# Shared by the scripts, which source it.

set -euo pipefail
unset CDPATH
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

VAULT=$PWD/.bin/vault

# Variables that the user has set for another server must not reach this one.
for name in $(compgen -v | grep -E '^(VAULT|BAO)_' | grep -vx VAULT_BIN); do
  unset "$name"
done

die() {
  echo "$*" >&2
  exit 1
}

# go_build PROGRAM MODULE-FOLDER go-build-arguments...: builds .bin/PROGRAM. It
# shows the number of built packages, because large programs take minutes.
go_build() {
  local program=$1 module=$2 log tty='' status=0
  shift 2
  log=$(mktemp)
  echo "building .bin/$program from source (the first time takes a while) ..."
  mkdir -p .bin
  if [ -t 1 ]; then tty=1; fi
  (cd "$module" && "${GO:-go}" build -v -mod=readonly -trimpath -o "$OLDPWD/.bin/$program" "$@") 2>&1 |
    tee "$log" |
    awk -v tty="$tty" '
      tty           { printf "\r  %d packages", NR; fflush() }
      !tty && NR % 250 == 0 { printf "  %d packages\n", NR; fflush() }
      END           { if (tty && NR) print "" }' || status=$?
  if [ "$status" != 0 ]; then
    tail -n 30 "$log" >&2
    rm -f "$log"
    die "building .bin/$program failed"
  fi
  rm -f "$log"
  touch ".bin/$program"
}

# system_tool PROGRAM WHY: makes .bin/PROGRAM a link to the one on PATH, or to
# Debian's, which it installs.
system_tool() {
  local program=$1 why=$2 sudo=()
  [ -x ".bin/$program" ] && return
  mkdir -p .bin
  if ! command -v "$program" >/dev/null; then
    command -v apt-get >/dev/null || die "$program is missing: install it with your system's packages ($why)"
    [ "$(id -u)" = 0 ] || sudo=(sudo -n)
    echo "installing $program from the system's packages ..."
    { "${sudo[@]}" apt-get update -qq && "${sudo[@]}" apt-get install -qq -y --no-install-recommends "$program"; } >/dev/null ||
      die "$program is missing, and installing it failed: sudo apt-get install $program"
  fi
  ln -sfn "$(command -v "$program")" ".bin/$program"
}

# unpacked_tool PROGRAM PACKAGE WHY: makes .bin/PROGRAM a link to the one on PATH, or takes
# it out of Debian's package, which would start a daemon if it were installed.
unpacked_tool() {
  local program=$1 package=$2 why=$3 dir
  [ -x ".bin/$program" ] && return
  mkdir -p .bin
  if command -v "$program" >/dev/null; then
    ln -sfn "$(command -v "$program")" ".bin/$program"
    return
  fi
  command -v apt-get >/dev/null || die "$program is missing: install it with your system's packages ($why)"
  echo "unpacking $program from the system's packages ..."
  dir=$(mktemp -d)
  if [ "$(id -u)" = 0 ]; then apt-get update -qq; fi # the lists may be missing, or old
  if ! (cd "$dir" && apt-get download -qq "$package" && dpkg-deb -x "$package"_*.deb .) >/dev/null 2>&1; then
    rm -rf "$dir"
    die "$program is missing, and unpacking Debian's $package failed: try sudo apt-get update"
  fi
  install -m 0755 "$dir/usr/bin/$program" ".bin/$program"
  rm -rf "$dir"
}

# free_port prints a loopback port that nothing listens on.
free_port() {
  local port
  for _ in $(seq 100); do
    port=$((RANDOM % 20000 + 20000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
  die "found no free port on 127.0.0.1"
}

# Vault in dev mode registers each file of this folder and ends at one that is no plugin,
# so that it cannot be bin/. The argument marks the servers that start_vault has started.
DEV_PLUGINS=-dev-plugin-dir=$PWD/.dev/plugins

# start_vault LOG: starts a dev server with the plugin enabled at regcred/ and
# the role my_app, and sets VAULT_ADDR, VAULT_TOKEN and VAULT_PID.
start_vault() {
  local log=$1 port
  mkdir -p .dev/plugins
  cp -f bin/vault-plugin-secrets-regcred .dev/plugins/
  port=$(free_port)
  VAULT_ADDR=http://127.0.0.1:$port
  VAULT_TOKEN=dev-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  # OpenBao reads these too, unless BAO_ADDR and BAO_TOKEN are set.
  export VAULT_ADDR VAULT_TOKEN
  set -m # so that Ctrl-C in the terminal ends only the script, which then stops the server
  "$VAULT" server -dev -dev-no-store-token -dev-root-token-id="$VAULT_TOKEN" \
    -dev-listen-address="127.0.0.1:$port" "$DEV_PLUGINS" >"$log" 2>&1 </dev/null &
  VAULT_PID=$!
  set +m
  for _ in $(seq 300); do
    if "$VAULT" status >/dev/null 2>&1; then
      return
    fi
    kill -0 "$VAULT_PID" 2>/dev/null || break
    sleep 0.1
  done
  tail -n 20 "$log" >&2
  stop_vault "$VAULT_PID"
  VAULT_PID=
  cannot_use "; the end of its log is above"
}

# cannot_use [MORE]: dies, because the program behind .bin/vault does not work.
cannot_use() {
  local program=$VAULT
  if [ -L "$VAULT" ]; then program="$(readlink "$VAULT") (.bin/vault)"; fi
  die "$program did not start${1:-}.
To use another: VAULT_BIN=/path/to/vault make vault. To build Vault from source: VAULT_BIN=build make vault"
}

# is_ours PID [ARGUMENT]: succeeds if the process has this argument; without one, if
# start_vault has started it.
is_ours() {
  local command argument=${2:-$DEV_PLUGINS}
  if [ -r "/proc/$1/cmdline" ]; then
    command=$(tr '\0' ' ' <"/proc/$1/cmdline")
  else
    command=$(ps -ww -o command= -p "$1" 2>/dev/null) || return 1
  fi
  [[ " $command " == *" $argument "* ]]
}

# stop_vault PID: stops a server and its plugin, and waits until they have ended.
stop_vault() {
  kill "$1" 2>/dev/null || return 0
  for _ in $(seq 100); do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -9 "$1" 2>/dev/null || true
}

# show COMMAND...: prints a command as a user would type it, and runs it.
show() {
  printf '\n$ %s\n' "${*/#$VAULT/vault}"
  "$@"
}
