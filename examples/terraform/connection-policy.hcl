path "regcred/connections/gitlab" {
  capabilities = ["create", "read", "update", "delete"]
}
path "regcred/roles/team_app" {
  capabilities = ["create", "read", "update", "delete"]
}
