umask 077
mkdir -p ~/.docker
config=$(vault read -field=config.json regcred/creds/my_app/docker) &&
  printf %s "$config" > ~/.docker/config.json
