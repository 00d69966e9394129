vault {
  address = "https://vault.example.com:8200"
}
auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "/etc/vault-agent/role-id"
      secret_id_file_path                 = "/etc/vault-agent/secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}
template_config {
  static_secret_render_interval = "1m"
}
template {
  source      = "/etc/vault-agent/regcred.yaml.tpl"
  destination = "/run/vault-agent/regcred.yaml"
  perms       = "0600"
  exec {
    command = ["kubectl", "apply", "--server-side", "--force-conflicts", "-f", "/run/vault-agent/regcred.yaml"]
  }
}
