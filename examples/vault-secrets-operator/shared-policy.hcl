path "regcred/creds/my_shared" {
  capabilities = ["read"]
}
