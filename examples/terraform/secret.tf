provider "vault" {
  address          = "https://vault.example.com:8200"
  skip_child_token = true
}

data "vault_generic_secret" "regcred" {
  path = "regcred/creds/my_app/kubernetes"
}

resource "kubernetes_secret_v1" "regcred" {
  metadata {
    name      = "regcred"
    namespace = "app"
  }
  type = "kubernetes.io/dockerconfigjson"
  data = data.vault_generic_secret.regcred.data
}
