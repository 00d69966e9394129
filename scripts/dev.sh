#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# "make dev", "make dev-registries" and "make dev-stop": start and stop a Vault in dev
# mode with the engine, and registries in memory beside it. .dev/ holds their process
# ids and logs, env.sh, and the root credentials of the registries.
. "$(dirname "$0")/lib.sh"

# After a reboot another process may have the process id.
running() { [ -f .dev/pid ] && is_ours "$(cat .dev/pid)"; }
registries_run() { [ -f .dev/registries.pid ] && is_ours "$(cat .dev/registries.pid)" "$PWD/.bin/standins"; }

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
        # OpenBao reads them too. With BAO_TOKEN set beside it, another VAULT_TOKEN would
        # not count.
        printf 'export VAULT_ADDR=%s VAULT_TOKEN=%s\n' "$VAULT_ADDR" "$VAULT_TOKEN"
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

"make dev-registries" starts a GitLab and a Harbor in memory beside it, to try
connections and rotation.
TEXT
    ;;
  registries)
    running || die "no Vault runs here: make dev-registries starts one too"
    if ! registries_run; then
      rm -f .dev/registries.env
      set -m
      "$PWD/.bin/standins" "$PWD/.dev" >.dev/registries.log 2>&1 </dev/null &
      echo $! >.dev/registries.pid
      set +m
      for _ in $(seq 100); do
        if [ -f .dev/registries.env ] || ! registries_run; then break; fi
        sleep 0.1
      done
      if ! [ -f .dev/registries.env ]; then
        tail -n 20 .dev/registries.log >&2
        die "the registries did not start; the end of their log is above"
      fi
    fi
    # shellcheck source=/dev/null
    . .dev/registries.env
    cat <<TEXT

A GitLab and a Harbor run in memory, and mint what no real registry takes. Each request
to them is a line in .dev/registries.log; "make dev-stop" stops them. A connection to
GitLab, and a role whose credential it replaces every minute:

    . .dev/env.sh
    vault write regcred/connections/gitlab type=gitlab url=http://$GITLAB registry=$GITLAB token=@.dev/gitlab-token service_account_group=group allowed_roles='*'
    vault write regcred/roles/team_app connection=gitlab project=group/my_app rotation_period=1m grace_period=5m
    vault read regcred/creds/team_app
    vault write regcred/verify/team_app repository=group/my_app
    vault write -f regcred/rotate/team_app
    vault read regcred/roles/team_app

A credential for each read, which ends with its lease, and a new root credential:

    vault write regcred/roles/ci connection=gitlab project=group/my_app mode=leased ttl=2m
    vault read regcred/creds/ci
    vault lease revoke -prefix regcred/creds/ci
    vault write -f regcred/connections/gitlab/rotate-root

A connection to Harbor:

    vault write regcred/connections/harbor type=harbor url=http://$HARBOR registry=$HARBOR username=vault password=@.dev/harbor-password allowed_roles='*'
    vault write regcred/roles/harbor_app connection=harbor projects=apps
    vault read regcred/creds/harbor_app
TEXT
    ;;
  stop)
    if registries_run; then
      stop_vault "$(cat .dev/registries.pid)"
    fi
    if running; then
      stop_vault "$(cat .dev/pid)"
    fi
    rm -rf .dev
    ;;
  *) die "usage: scripts/dev.sh start|registries|stop" ;;
esac
