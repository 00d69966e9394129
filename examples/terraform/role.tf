variable "password" {
  type      = string
  sensitive = true
}

resource "vault_generic_endpoint" "my_app" {
  path                 = "regcred/roles/my_app"
  ignore_absent_fields = true
  data_json = jsonencode({
    registry = "registry.gitlab.com"
    username = "gitlab+deploy-token-910431"
    password = var.password
  })
}
