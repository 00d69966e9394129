# Copies pull secrets of all roles into Kubernetes Secrets. "+" stands for one name,
# whole; for the roles of one team name each, or give its tool another mount.

path "regcred/creds/+/kubernetes" {
  capabilities = ["read"]
}
