# One application: reads its pull secret, in the form that its tool asks for, here the
# one with the single field .dockerconfigjson. A path without "*" is that path alone. The
# other forms are
#
#   regcred/creds/team-a-web          all fields
#   regcred/creds/team-a-web/docker   the single field config.json
#
# All three are "regcred/creds/team-a-web" together with "regcred/creds/team-a-web/*".
# Do not write "regcred/creds/team-a-web*", which also covers the role team-a-website.

path "regcred/creds/team-a-web/kubernetes" {
  capabilities = ["read"]
}
