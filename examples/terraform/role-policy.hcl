path "regcred/roles/my_app" {
  capabilities = ["create", "read", "update", "delete"]
}
