# Audit and monitoring: reads what needs attention, roles, connections, settings and
# metrics. Reads no pull secret, and changes nothing. Prometheus needs only the paths
# regcred/metrics and sys/metrics.

path "regcred/status" {
  capabilities = ["read"]
}
path "regcred/metrics" {
  capabilities = ["read"]
}

path "regcred/config" {
  capabilities = ["read"]
}
path "regcred/roles" {
  capabilities = ["list"]
}
path "regcred/roles/*" {
  capabilities = ["read"]
}
path "regcred/expiring" {
  capabilities = ["read"]
}
path "regcred/connections" {
  capabilities = ["list"]
}
# This includes connections/<name>/check, which asks the registry.
path "regcred/connections/*" {
  capabilities = ["read"]
}
path "sys/mounts" {
  capabilities = ["read"]
}
path "sys/plugins/catalog" {
  capabilities = ["read"]
}
path "sys/leases/count" {
  capabilities = ["read"]
}
path "sys/metrics" {
  capabilities = ["read"]
}
