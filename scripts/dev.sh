#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# "make dev" and "make dev-stop": start and stop a Vault in dev mode with the
# engine. .dev/ holds its process id, its log, and env.sh.
. "$(dirname "$0")/lib.sh"

# After a reboot another process may have the process id.
running() { [ -f .dev/pid ] && is_ours "$(cat .dev/pid)"; }

case ${1:-} in
  start)
    if ! running; then
      mkdir -p .dev
      chmod 700 .dev
      trap 'stop_vault "${VAULT_PID:-}"' EXIT
      trap 'exit 130' INT
      trap 'exit 143' TERM HUP
      start_vault .dev/vault.log
      "$VAULT" secrets enable -path=regcred vault-plugin-secrets-regcred >/dev/null
      {
        # Variables that the user has set for another server must not reach this one.
        cat <<'ENV'
eval "$(env | sed -nE 's/^((VAULT|BAO)_[A-Za-z0-9_]*)=.*/unset \1;/p')"
ENV
        printf 'export VAULT_ADDR=%s VAULT_TOKEN=%s\n' "$VAULT_ADDR" "$VAULT_TOKEN"
        printf 'export BAO_ADDR=%s BAO_TOKEN=%s\n' "$VAULT_ADDR" "$VAULT_TOKEN"
        printf 'export PATH=%q:%s\n' "$PWD/.bin" "\$PATH"
      } >.dev/env.sh
      echo "$VAULT_PID" >.dev/pid
      trap - EXIT INT TERM HUP
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
