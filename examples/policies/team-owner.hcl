# Owns the roles whose names begin with team-a-. A connection that mints for them has
# team-a-* in allowed_roles. Reads no pull secret.

path "regcred/roles/team-a-*" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}
path "regcred/rotate/team-a-*" {
  capabilities = ["update"]
}
path "regcred/verify/team-a-*" {
  capabilities = ["update"]
}
path "sys/leases/revoke-prefix/regcred/creds/team-a-*" {
  capabilities = ["update", "sudo"]
}
