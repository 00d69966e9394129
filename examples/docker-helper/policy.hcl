path "regcred/creds/my_app" {
  capabilities = ["read"]
}

path "regcred/creds/other_app" {
  capabilities = ["read"]
}
