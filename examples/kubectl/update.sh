vault read -field=.dockerconfigjson regcred/creds/my_app |
  kubectl create secret docker-registry regcred --from-file=.dockerconfigjson=/dev/stdin --dry-run=client -o yaml |
  kubectl apply --server-side --force-conflicts -f -
