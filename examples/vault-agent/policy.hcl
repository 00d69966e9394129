path "regcred/creds/my_app" {
  capabilities = ["read"]
}
path "regcred/creds/my_app/docker" {
  capabilities = ["read"]
}
