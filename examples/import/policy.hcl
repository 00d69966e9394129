# Reads the KV engine at kv/, of version 2. Of version 1, one path does both: "kv/*".
path "kv/metadata/*" {
  capabilities = ["list"]
}
path "kv/data/*" {
  capabilities = ["read"]
}

# Creates roles, and compares those that there are. Only -overwrite needs "update".
path "regcred/roles" {
  capabilities = ["list"]
}
path "regcred/roles/*" {
  capabilities = ["create", "read"]
}
path "regcred/creds/*" {
  capabilities = ["read"]
}
