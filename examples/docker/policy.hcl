path "regcred/creds/my_app/docker" {
  capabilities = ["read"]
}
