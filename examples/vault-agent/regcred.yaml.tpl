apiVersion: v1
kind: Secret
metadata:
  name: regcred
type: kubernetes.io/dockerconfigjson
data:
  .dockerconfigjson: {{ with secret "regcred/creds/my_app" }}{{ .Data.dockerconfigjson }}{{ end }}
