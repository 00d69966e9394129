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
  contents    = "{{ with secret `regcred/creds/my_app/docker` }}{{ index .Data `config.json` }}{{ end }}"
  destination = "/home/ci/.docker/config.json"
  perms       = "0600"
}
