variable "regcred" {
  type = object({ version = string, sha256 = string })
}

resource "vault_plugin" "regcred" {
  type    = "secret"
  name    = "vault-plugin-secrets-regcred"
  command = "vault-plugin-secrets-regcred-${var.regcred.version}"
  version = var.regcred.version
  sha256  = var.regcred.sha256
  lifecycle {
    create_before_destroy = true
  }
}

resource "vault_mount" "regcred" {
  path           = "regcred"
  type           = vault_plugin.regcred.name
  plugin_version = vault_plugin.regcred.version
}
