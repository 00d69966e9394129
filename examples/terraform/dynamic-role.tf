resource "vault_generic_endpoint" "team_app" {
  path                 = "regcred/roles/team_app"
  ignore_absent_fields = true
  data_json = jsonencode({
    connection      = "gitlab"
    project         = "group/my_app"
    rotation_period = 86400
    grace_period    = 3600
  })
  depends_on = [vault_generic_endpoint.gitlab]
}
