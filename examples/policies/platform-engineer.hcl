# Runs the mount: registers, enables, upgrades and backs up. Reads no pull secret, and
# writes neither roles nor connections.

path "sys/plugins/catalog" {
  capabilities = ["read"]
}
path "sys/plugins/catalog/secret/vault-plugin-secrets-regcred" {
  capabilities = ["create", "read", "update", "delete", "sudo"]
}
path "sys/plugins/reload/+/vault-plugin-secrets-regcred" {
  capabilities = ["update"]
}
path "sys/mounts" {
  capabilities = ["read"]
}
# No "delete": disabling the mount deletes everything in it.
path "sys/mounts/regcred" {
  capabilities = ["create", "read", "update"]
}
path "sys/mounts/regcred/tune" {
  capabilities = ["read", "update"]
}
# Reading saves a snapshot. Restoring one is a write, which this policy does not allow.
path "sys/storage/raft/snapshot" {
  capabilities = ["read"]
}
path "sys/step-down" {
  capabilities = ["update", "sudo"]
}
path "regcred/config" {
  capabilities = ["create", "read", "update", "delete"]
}
