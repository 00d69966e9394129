# Owns the roles that belong to no team, such as the company's account at Docker Hub. Their
# names begin with common-, and allowed_bundles says which teams' bundles may join them.
# Reads no pull secret.

path "regcred/roles/common-*" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}
path "regcred/rotate/common-*" {
  capabilities = ["update"]
}
path "regcred/verify/common-*" {
  capabilities = ["update"]
}
# Which of them end soon. The list also has the names of other teams' roles.
path "regcred/expiring" {
  capabilities = ["read"]
}
