path "regcred/creds/my_app/kubernetes" {
  capabilities = ["read"]
}
