// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// FuzzRequest sends requests that no schema has seen. Whatever they are, they
// are answered, or refused as the caller's mistake, and no secret that stands
// in a field for it, or in storage, gets into an error.
func FuzzRequest(f *testing.F) {
	operations := []logical.Operation{
		logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation,
		logical.ReadOperation, logical.ListOperation, logical.DeleteOperation,
	}
	// secretFields are forms in which a request may hold its secret.
	secretFields := []func(string) fields{
		func(string) fields { return nil },
		func(string) fields { return fields{"password": marker} },
		func(s string) fields { return fields{"password": s + marker + s} },
		func(string) fields { return fields{"password": []any{marker}} },
		func(s string) fields { return fields{"password": fields{s: marker}} },
		func(s string) fields { return fields{"registry": "ghcr.io", "username": s, "password": marker} },
		func(s string) fields { return fields{"dockerconfigjson": s + `{"auth":"` + marker + `"}}}`} },
		func(s string) fields {
			docker, _ := json.Marshal(fields{"auths": fields{s: fields{"username": "me", "password": marker}}})
			return fields{"dockerconfigjson": string(docker)}
		},
		func(s string) fields { return fields{"dockerconfigjson": fields{s: marker}} },
		func(s string) fields {
			return fields{"type": "test", "url": s, "registry": "ghcr.io", "username": "admin", "password": marker, "verify_connection": false}
		},
		func(s string) fields {
			return fields{"type": "gitlab", "url": "https://git.example.com", "token": marker + s}
		},
		func(s string) fields { return fields{"connection": "app", "project": s} },
		func(s string) fields {
			return fields{"connection": "app", "project": s, "mode": "leased", "verify": true}
		},
	}
	for i := range operations {
		for j := range secretFields {
			f.Add(uint8(i), uint8(j), "roles/app", "expires_at", `"2027-01-31T00:00:00+24:00"`, `{"auths":{"ghcr.io":`)
		}
		f.Add(uint8(i), uint8(1), "roles/new", "hostname", `"https://Ghcr.io/v2/"`, "me")
		f.Add(uint8(i), uint8(0), "config", "allowed_registries", `["*.example.com"]`, "")
		f.Add(uint8(i), uint8(0), "config", "expiry_warning", `"9999999999h"`, "")
		f.Add(uint8(i), uint8(5), "creds/app/docker", "version", `[1,2]`, "a:b")
		f.Add(uint8(i), uint8(2), "roles/", "role", `{"a":null}`, "\x00")
		f.Add(uint8(i), uint8(9), "connections/new", "allowed_roles", `["team-*"]`, "http://[::1]:3000/")
		f.Add(uint8(i), uint8(9), "connections/app", "allowed_targets", `"group/*"`, "https://me:x@git.example.com?a#b")
		f.Add(uint8(i), uint8(10), "connections/app", "registry", `"a.example.com,b.example.com"`, "\n")
		f.Add(uint8(i), uint8(0), "connections/app/check", "name", `"app"`, "")
		f.Add(uint8(i), uint8(0), "connections/app/rotate-root", "force", `true`, "")
		f.Add(uint8(i), uint8(11), "roles/new", "rotation_period", `"5s"`, "group/app")
		f.Add(uint8(i), uint8(11), "roles/shared", "grace_period", `1e9`, "")
		f.Add(uint8(i), uint8(12), "roles/leased", "max_ttl", `-1`, "group/app")
		f.Add(uint8(i), uint8(0), "creds/shared", "version", `"2"`, "")
		f.Add(uint8(i), uint8(0), "rotate/shared", "role", `null`, "")
		f.Add(uint8(i), uint8(0), "verify/shared", "repository", `"registry.example.com/group/app"`, "")
	}
	f.Fuzz(func(t *testing.T, op, shape uint8, path, field, value, text string) {
		if strings.Contains(path+field+value+text, marker) {
			return // a secret in a name is not ours to hide
		}
		e := newEngine(t)
		for p, data := range samples {
			e.write(p, data)
		}
		e.write("connections/app", e.connectionSample())
		e.write("roles/shared", sharedRole)
		e.write("roles/leased", leasedRole)
		e.read("creds/shared")
		data := secretFields[int(shape)%len(secretFields)](text)
		if data == nil {
			data = fields{}
		}
		var decoded any
		if json.Unmarshal([]byte(value), &decoded) != nil {
			decoded = value
		}
		if _, taken := data[field]; !taken {
			data[field] = decoded
		}

		before := e.snapshot()
		resp, err := e.request(operations[int(op)%len(operations)], path, data)
		var coded logical.HTTPCodedError
		switch {
		case err == nil, errors.Is(err, logical.ErrUnsupportedPath), errors.Is(err, logical.ErrUnsupportedOperation):
		case errors.As(err, &coded) && coded.Code() == http.StatusNotFound:
		default:
			t.Errorf("want an answer or a refusal, got the internal error %v", err)
		}
		if err != nil || resp != nil && resp.IsError() {
			checkSame(t, "storage after a refusal", before, e.snapshot())
		}
		for _, path := range []string{"roles/app", "config", "creds/app", "connections/app", "roles/shared", "creds/shared", "roles/leased"} { // what is stored is readable
			if _, err := e.request(logical.ReadOperation, path, nil); err != nil {
				t.Errorf("reading %s: %v", path, err)
			}
		}
	})
}
