# Keeps a token of the policy auditor for Prometheus in a file, and renews it.
vault {
  address = "https://vault-active.vault.svc:8200"
}
auto_auth {
  method "kubernetes" {
    config = {
      role = "regcred-auditor"
    }
  }
  sink "file" {
    config = {
      path = "/run/vault/prometheus-token"
      mode = 0640
    }
  }
}
