variable "token" {
  type      = string
  sensitive = true
  default   = null
}

resource "vault_generic_endpoint" "gitlab" {
  path                 = "regcred/connections/gitlab"
  ignore_absent_fields = true
  data_json = jsonencode(merge(var.token == null ? {} : { token = var.token }, {
    type            = "gitlab"
    url             = "https://gitlab.example.com"
    registry        = "registry.example.com"
    allowed_roles   = ["team_*"]
    allowed_targets = ["group/*"]
  }))
  depends_on = [vault_mount.regcred]
}
