# Copies pull secrets of all roles into Kubernetes Secrets. "+" stands for one whole name.
# For the roles of one team, name each role, or give its tool another mount.

path "regcred/creds/+/kubernetes" {
  capabilities = ["read"]
}
