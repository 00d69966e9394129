path "sys/plugins/catalog/secret/vault-plugin-secrets-regcred" {
  capabilities = ["create", "read", "update", "delete", "sudo"]
}
path "sys/mounts/regcred" {
  capabilities = ["create", "read", "update", "delete"]
}
path "sys/mounts/regcred/tune" {
  capabilities = ["read", "update"]
}
path "regcred/config" {
  capabilities = ["create", "read", "update", "delete"]
}
