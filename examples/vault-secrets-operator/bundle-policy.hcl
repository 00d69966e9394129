path "regcred/creds/my_bundle/kubernetes" {
  capabilities = ["read"]
}
