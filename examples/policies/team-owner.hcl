# Owns the roles whose names begin with team-a-, which a connection has in
# allowed_roles if they are to mint. Need not read what they hold.

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
