kubectl apply --server-side --force-conflicts -f - <<EOF
apiVersion: v1
kind: Secret
metadata:
  name: regcred
type: kubernetes.io/dockerconfigjson
data:
  .dockerconfigjson: $(vault read -field=dockerconfigjson regcred/creds/my_app)
EOF
