# Each pod reads the role of its namespace, and those that begin with its
# namespace and a dot. ACCESSOR is the accessor of auth/jwt.

path "regcred/creds/{{identity.entity.aliases.ACCESSOR.metadata.namespace}}" {
  capabilities = ["read"]
}

path "regcred/creds/{{identity.entity.aliases.ACCESSOR.metadata.namespace}}.*" {
  capabilities = ["read"]
}
