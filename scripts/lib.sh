# SPDX-License-Identifier: MPL-2.0
# shellcheck shell=bash
#
# What the scripts share; to be sourced.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VAULT=$PWD/.bin/vault

# What the user has set up for another server must not reach this one.
for name in $(compgen -v | grep -E '^(VAULT|BAO)_' | grep -vx VAULT_BIN); do
  unset "$name"
done

die() {
  echo "$*" >&2
  exit 1
}

# go_build PROGRAM MODULE-FOLDER go-build-arguments...: builds .bin/PROGRAM and
# counts the packages meanwhile, because the large ones take minutes.
go_build() {
  local program=$1 module=$2 log status=0
  shift 2
  log=$(mktemp)
  echo "building .bin/$program from source (the first time takes a while) ..."
  mkdir -p .bin
  (cd "$module" && "${GO:-go}" build -v -mod=readonly -trimpath -o "$OLDPWD/.bin/$program" "$@") 2>&1 |
    tee "$log" |
    awk -v tty="$([ -t 1 ] && echo 1 || true)" '
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

# start_vault LOG: starts a dev server with the plugin enabled at regcred/ and
# the role my_app, and sets VAULT_ADDR, VAULT_TOKEN and VAULT_PID.
start_vault() {
  local log=$1 port
  port=$(free_port)
  VAULT_ADDR=http://127.0.0.1:$port
  VAULT_TOKEN=dev-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  export VAULT_ADDR VAULT_TOKEN BAO_ADDR=$VAULT_ADDR BAO_TOKEN=$VAULT_TOKEN
  "$VAULT" server -dev -dev-no-store-token -dev-root-token-id="$VAULT_TOKEN" \
    -dev-listen-address="127.0.0.1:$port" -dev-plugin-dir="$PWD/bin" >"$log" 2>&1 </dev/null &
  VAULT_PID=$!
  for _ in $(seq 300); do
    if "$VAULT" status >/dev/null 2>&1; then
      return
    fi
    kill -0 "$VAULT_PID" 2>/dev/null || break
    sleep 0.1
  done
  tail -n 20 "$log" >&2
  stop_vault "$VAULT_PID"
  die "Vault did not start; the end of its log is above"
}

# stop_vault PID: ends it and its plugin, and waits for that.
stop_vault() {
  kill "$1" 2>/dev/null || return 0
  for _ in $(seq 100); do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -9 "$1" 2>/dev/null || true
}

# show COMMAND...: prints a command as typed, and runs it.
show() {
  printf '\n$ %s\n' "${*/#$VAULT/vault}"
  "$@"
}
