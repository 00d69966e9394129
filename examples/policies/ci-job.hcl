# Pulls and pushes in a job. A lease goes with the job's token; these two are for jobs
# that outlast a ttl, or end theirs early.

path "regcred/creds/team-a-ci/docker" {
  capabilities = ["read"]
}
path "sys/leases/renew" {
  capabilities = ["update"]
}
path "sys/leases/revoke" {
  capabilities = ["update"]
}
