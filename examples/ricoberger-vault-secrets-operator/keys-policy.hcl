path "regcred/creds/my_app" {
  capabilities = ["read"]
}
