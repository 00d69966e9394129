module vault-plugin-secrets-regcred/tests/tools/schemas

go 1.26

// Only its resource definitions are read: config/crd/bases.
require sigs.k8s.io/secrets-store-csi-driver v1.5.5
