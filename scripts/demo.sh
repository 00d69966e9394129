#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# "make demo": starts a real Vault, stores a role, and reads its pull secret.
. "$(dirname "$0")/lib.sh"

log=$(mktemp)
trap 'stop_vault "${VAULT_PID:-}"; rm -f "$log"' EXIT
"$VAULT" version || cannot_use
start_vault "$log"
show "$VAULT" secrets enable -path=regcred vault-plugin-secrets-regcred
show "$VAULT" write regcred/roles/my_app registry=registry.gitlab.com \
  username=gitlab+deploy-token-910431 password=gldt-x9Qm7
show "$VAULT" read regcred/creds/my_app
show "$VAULT" read -field=.dockerconfigjson regcred/creds/my_app
echo
