resource "vault_generic_endpoint" "config" {
  path                 = "${vault_mount.regcred.path}/config"
  ignore_absent_fields = true
  data_json = jsonencode({
    allowed_registries = ["registry.gitlab.com", "registry.example.com"]
    expiry_warning     = 1209600
  })
}
