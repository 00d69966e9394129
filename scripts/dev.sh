#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# "make dev" and "make dev-stop": a Vault in dev mode with the engine, which
# stays until it is stopped. .dev/ holds its process id, its log, and env.sh.
. "$(dirname "$0")/lib.sh"

running() { [ -f .dev/pid ] && kill -0 "$(cat .dev/pid)" 2>/dev/null; }

case ${1:-} in
  start)
    if ! running; then
      mkdir -p .dev
      chmod 700 .dev
      set -m # so that the server does not end with this terminal's Ctrl-C
      start_vault .dev/vault.log
      echo "$VAULT_PID" >.dev/pid
      printf 'export VAULT_ADDR=%s VAULT_TOKEN=%s PATH=%q:$PATH\n' "$VAULT_ADDR" "$VAULT_TOKEN" "$PWD/.bin" >.dev/env.sh
      "$VAULT" secrets enable -path=regcred vault-plugin-secrets-regcred >/dev/null
    fi
    cat <<TEXT
Vault runs in dev mode (nothing is kept on disk), with the engine at regcred/.
Its log is .dev/vault.log; "make dev-stop" stops it. Type next:

    . .dev/env.sh
    vault write regcred/roles/my_app registry=registry.gitlab.com username=gitlab+deploy-token-910431 password=gldt-x9Qm7
    vault read regcred/creds/my_app
    vault path-help regcred/roles/my_app
TEXT
    ;;
  stop)
    if running; then
      stop_vault "$(cat .dev/pid)"
    fi
    rm -rf .dev
    ;;
  *) die "usage: scripts/dev.sh start|stop" ;;
esac
