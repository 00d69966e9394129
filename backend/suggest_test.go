// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestUnknownFieldNamesTheOneThatWasMeant(t *testing.T) {
	e := newEngine(t)
	for field, want := range map[string]string{
		"user_name": "username", "userName": "username", "Username": "username", "usernmae": "username", "login": "username",
		"pasword": "password", "passwrod": "password", "pwd": "password", "secret": "password", "token": "password",
		"server": "registry", "host": "registry", "url": "registry", "regisstry": "registry", "docker-server": "registry",
		"docker-username": "username", "docker-password": "password",
		"auth": "dockerconfigjson", "auths": "dockerconfigjson", ".dockerconfigjson": "dockerconfigjson", "dockerConfigJson": "dockerconfigjson", "config.json": "dockerconfigjson",
		"expiry": "expires_at", "mail": "email", "member": "members", "bundles": "allowed_bundles",
		"rotation": "rotation_period", "grace": "grace_period", "verify-repository": "verify_repository", "maxttl": "max_ttl",
	} {
		e.refused(logical.UpdateOperation, "roles/app", fields{field: marker}, `unknown field "`+field+`"; did you mean `+want+"? The fields are: access, allowed_bundles, ")
	}
	for field, want := range map[string]string{"host": "url", "server": "url", "cacert": "ca_pem", "roles": "allowed_roles", "pass": "password", "allowed-targets": "allowed_targets"} {
		e.refused(logical.UpdateOperation, "connections/app", fields{field: marker}, `unknown field "`+field+`"; did you mean `+want+"? The fields are: ")
	}
	e.refused(logical.UpdateOperation, "roles/app", fields{"pasword": marker, "server": marker, "zzz": marker},
		`unknown field "pasword", "server", "zzz"; did you mean password and registry? The fields are: `)
	e.refused(logical.UpdateOperation, "roles/app", fields{"pasword": marker, "server": marker, "login": marker}, `; did you mean username, password and registry? The fields are: `)
	for _, field := range []string{"zzz", "", "é", "tls"} {
		e.refused(logical.UpdateOperation, "roles/app", fields{field: marker}, `"; the fields are: access, `)
	}
}

func TestWhatWasPipedInWholeIsNamed(t *testing.T) {
	e := newEngine(t)
	for want, data := range map[string]fields{
		`"; this is a whole answer of Vault: read it with -format=json -field=data. The fields are: access, `:                                 {"request_id": marker, "lease_id": "", "lease_duration": 0, "data": fields{"username": marker}},
		`"; this is a secret of KV version 2 with its versions: read it with vault kv get -format=json -field=data. The fields are: access, `: {"data": fields{"username": marker}, "metadata": fields{"version": 1}},
		`"kind", "metadata"; this is an object of Kubernetes: pipe a Secret into one field, dockerconfigjson=-. The fields are: access, `:     {"apiVersion": "v1", "kind": "Secret", "data": fields{".dockerconfigjson": marker}, "metadata": fields{"name": "x"}},
		`unknown field "data"; the fields are: access, `: {"data": fields{"username": marker}},
	} {
		e.refused(logical.UpdateOperation, "roles/app", data, want)
	}
	e.refused(logical.UpdateOperation, "connections/app", fields{"apiVersion": "v1", "kind": "Secret"}, `"apiVersion", "kind"; the fields are: access_key_id, `)
}

func TestFieldOfAnotherTypeSaysOfWhichItIs(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("roles/old", credential)
	for want, data := range map[string]fields{
		"user: is a field of roles on a connection of type gitea, and this role holds a credential of its own; did you mean username? Otherwise: leave the field out": with(without(credential, "username"), fields{"user": "bot"}),
		"ttl: is a field of roles on a connection, and this role holds a credential of its own; did you mean expires_at? Otherwise: leave":                            with(credential, fields{"ttl": 60}),
		"max_ttl: is a field of roles on a connection, and this role holds a credential of its own; did you mean expires_at? Otherwise: leave":                        with(credential, fields{"max_ttl": 60}),
		"access: is a field of roles on a connection of type dockerhub, ecr, gar, gitlab, harbor or quay, and this role holds a credential of its own; leave":         with(credential, fields{"access": "pull"}),
		"rotation_period: is a field of roles on a connection, and this role holds a credential of its own; leave":                                                    with(credential, fields{"rotation_period": 60}),
	} {
		e.refused(logical.UpdateOperation, "roles/new", data, want)
		e.refused(logical.UpdateOperation, "roles/old", data, want)
	}
	e.refused(logical.UpdateOperation, "roles/new", fields{"user": "bot"},
		"connection: must be the name of the connection that mints the role's credential, because user is a field of roles on a connection of type gitea; did you mean username?")
	e.refused(logical.UpdateOperation, "roles/new", fields{"mode": "leased"}, "because mode is a field of roles on a connection")
	e.refused(logical.UpdateOperation, "roles/new", with(credential, fields{"connection": "app"}), "a role with a connection gets its credential from it")
}
