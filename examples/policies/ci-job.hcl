# A job that pulls and pushes. A lease ends with the job's token. The two sys/leases paths
# are for jobs that run longer than a ttl, or end their lease early.

path "regcred/creds/team-a-ci/docker" {
  capabilities = ["read"]
}
path "sys/leases/renew" {
  capabilities = ["update"]
}
path "sys/leases/revoke" {
  capabilities = ["update"]
}
