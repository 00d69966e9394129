# Owns the connections, which can mint for everyone that they reach. Sees how the
# roles fare, can have them try again and can end leases; reads no pull secret, and
# writes no role.

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
path "sys/leases/revoke-prefix/regcred/creds/*" {
  capabilities = ["update", "sudo"]
}
