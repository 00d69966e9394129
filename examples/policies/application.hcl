# One application: reads its pull secret, in one form.

path "regcred/creds/team-a-web/kubernetes" {
  capabilities = ["read"]
}
