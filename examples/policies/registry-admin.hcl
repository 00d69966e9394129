# Owns the connections, which can mint for everything that they reach. Reads the state of
# roles, can verify and rotate them, and can end leases. Reads no pull secret, and writes no role.

path "regcred/connections" {
  capabilities = ["list"]
}
path "regcred/connections/*" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}
path "regcred/roles" {
  capabilities = ["list"]
}
path "regcred/roles/*" {
  capabilities = ["read"]
}
path "regcred/rotate/*" {
  capabilities = ["update"]
}
path "regcred/verify/*" {
  capabilities = ["update"]
}
path "sys/leases/revoke-prefix/regcred/creds/*" {
  capabilities = ["update", "sudo"]
}
