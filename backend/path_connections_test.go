// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// newConnectedEngine has a connection that every role may use.
func newConnectedEngine(t testing.TB) *engine {
	t.Helper()
	e := newEngine(t)
	e.write("connections/app", e.connectionSample())
	e.events.Events = nil
	return e
}

// connectionReadBack is the read-back of the sample.
func (e *engine) connectionReadBack() fields {
	return fields{
		"type": "test", "url": e.minting.url, "registry": "registry.example.com", "username": "admin",
		"allowed_roles": []string{"*"}, "allowed_targets": []string{}, "updated_at": formatTime(noon),
	}
}

func TestConnectionReadsBackAllExceptItsSecrets(t *testing.T) {
	for name, more := range map[string]struct{ write, want fields }{
		"required ones": {nil, nil},
		"all fields": {
			fields{"ca_pem": testCA, "allowed_roles": "team-*,ci", "allowed_targets": []any{"group/*", "me"}, "verify_connection": true},
			fields{"ca_pem": testCA, "allowed_roles": []string{"team-*", "ci"}, "allowed_targets": []string{"group/*", "me"}},
		},
		"several registries": {fields{"registry": "docker.io,registry.example.com:5000,ghcr.io/team"}, fields{"registry": "docker.io,registry.example.com:5000,ghcr.io/team"}},
		"none may use it":    {fields{"allowed_roles": ""}, fields{"allowed_roles": []string{}}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			e.write("connections/app", with(e.connectionSample(), more.write))
			checkSame(t, "connection", with(e.connectionReadBack(), more.want), e.read("connections/app"))
		})
	}
}

// Of Docker Hub there is only one.
func TestConnectionToWhatThereIsOnlyOneOf(t *testing.T) {
	sample := fields{"type": "dockerhub", "organization": "acme", "username": "owner", "password": marker, "verify_connection": false}
	for name, more := range map[string]fields{
		"left out":      {},
		"empty":         {"url": "", "registry": ""},
		"null":          {"url": nil, "registry": nil},
		"written fully": {"url": "https://hub.docker.com/", "registry": "index.docker.io"},
	} {
		e := newEngine(t)
		e.write("connections/hub", with(sample, more))
		want := fields{
			"type": "dockerhub", "url": "https://hub.docker.com", "registry": "docker.io", "organization": "acme", "username": "owner",
			"allowed_roles": []string{}, "allowed_targets": []string{}, "updated_at": formatTime(noon),
		}
		checkSame(t, name, want, e.read("connections/hub"))
		e.write("connections/hub", fields{"allowed_roles": "ci", "verify_connection": false})
		checkSame(t, name+", after an update", with(want, fields{"allowed_roles": []string{"ci"}}), e.read("connections/hub"))
	}
	e := newEngine(t)
	e.write("connections/hub", with(sample, fields{"url": "https://hub.example.com", "registry": "hub.example.com"}))
	e.refused(logical.UpdateOperation, "connections/hub", fields{"url": "", "verify_connection": false}, "url: ")
	checkSame(t, "url", any("https://hub.example.com"), e.read("connections/hub")["url"])
}

// An update keeps the fields that it does not name, the secret included.
func TestConnectionUpdateKeepsWhatItDoesNotName(t *testing.T) {
	for field, c := range map[string]struct {
		value any
		name  string // of the stored field
		want  any
	}{
		"url":             {"/v2", "url", nil}, // joined with the url
		"registry":        {"registry.example.com/team", "registries", []any{"registry.example.com/team"}},
		"username":        {"other", "settings", fields{"username": "other"}},
		"password":        {"", "secrets", nil},
		"ca_pem":          {nil, "ca_pem", nil},
		"allowed_roles":   {"a,b", "allowed_roles", []any{"a", "b"}},
		"allowed_targets": {nil, "allowed_targets", nil},
		"type":            {"test", "type", "test"},
	} {
		for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
			t.Run(fmt.Sprintf("%s %s", op, field), func(t *testing.T) {
				e := newEngine(t)
				e.write("connections/app", with(e.connectionSample(), fields{"ca_pem": testCA, "allowed_targets": "group/*"}))
				want := e.stored("connections/app")
				e.clock.advance(time.Hour)
				if field == "url" {
					e.minting.alsoAt(t, e.minting.url+"/v2")
					c.value, c.want = e.minting.url+"/v2", e.minting.url+"/v2"
				}
				if want[c.name], want["updated_at"] = c.want, "2026-03-01T13:00:00Z"; c.want == nil {
					delete(want, c.name)
				}
				data := fields{field: c.value, "verify_connection": false}
				if field == "url" { // another path is another API, which takes the secrets anew
					data["password"], want["id"] = adminPassword, "id-2"
				}
				e.must(op, "connections/app", data)
				checkSame(t, "stored", want, e.stored("connections/app"))
			})
		}
	}
}

func TestConnectionRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		data fields // added to a complete sample if the connection is new
		want []string
	}{
		"unknown type":            {fields{"type": "nexus"}, []string{"type: must be one of " + strings.Join(issuerTypeNames(), ", ")}},
		"no type":                 {fields{"type": nil}, []string{"type: must be one of"}},
		"field of another type":   {fields{"token": marker}, []string{"token: a connection of type test does not have this field, which is for type ", "gitlab", "; did you mean password? Otherwise: its fields are: password, username"}},
		"plain http":              {fields{"url": "http://git.example.com"}, []string{"url: must begin with https://; plain http would send the root credential unencrypted"}},
		"other scheme":            {fields{"url": "ftp://git.example.com"}, []string{"url: must begin with https://"}},
		"no scheme":               {fields{"url": "git.example.com"}, []string{"url: must be a URL, such as https://gitlab.example.com"}},
		"no host":                 {fields{"url": "https://:443"}, []string{"url: must be a URL"}},
		"no URL":                  {fields{"url": "https://a b"}, []string{"url: must be a URL"}},
		"empty URL":               {fields{"url": ""}, []string{"url: must be the URL of the API, such as https://test.example.com"}},
		"user in the URL":         {fields{"url": "https://me:" + marker + "@git.example.com"}, []string{"url: must not have a user, a query or a fragment"}},
		"query in the URL":        {fields{"url": "https://git.example.com?token=" + marker}, []string{"url: must not have a user"}},
		"empty query in the URL":  {fields{"url": "https://git.example.com?"}, []string{"url: must not have a user"}},
		"fragment in the URL":     {fields{"url": "https://git.example.com#" + marker}, []string{"url: must not have a user"}},
		"no registry":             {fields{"registry": ""}, []string{"registry: must be the registry that the credentials are for"}},
		"bad registry":            {fields{"registry": "a b"}, []string{"registry: "}},
		"registries with a glob":  {fields{"registry": "*.example.com"}, []string{"registry: must name one registry, not a pattern"}},
		"registry twice":          {fields{"registry": "Ghcr.io,https://ghcr.io/"}, []string{`registry: names "ghcr.io" twice`}},
		"CA that is none":         {fields{"ca_pem": marker}, []string{"ca_pem: must hold only PEM certificates"}},
		"role that can not be":    {fields{"allowed_roles": "a,b c"}, []string{"allowed_roles: entry 2 must be a role name"}},
		"too many roles":          {fields{"allowed_roles": slices.Repeat([]any{"a"}, 1001)}, []string{"allowed_roles: must have at most 1000 names, not 1001"}},
		"target with white space": {fields{"allowed_targets": []any{"a", "b c"}}, []string{"allowed_targets: entry 2 must be a project, group, user or repository"}},
		"empty target":            {fields{"allowed_targets": []any{""}}, []string{"allowed_targets: entry 1 must be"}},
		"too many targets":        {fields{"allowed_targets": slices.Repeat([]any{"a"}, 1001)}, []string{"allowed_targets: must have at most 1000 entries, not 1001"}},
		"what its type refuses":   {fields{"username": nil}, []string{"username: must be set"}},
		"NUL in the secret":       {fields{"password": marker + "\x00"}, []string{"password: must not contain a NUL"}},
		"force":                   {fields{"force": true}, []string{"force: is for deleting a connection"}},
		"unknown field":           {fields{"pasword": marker}, []string{`unknown field "pasword"; did you mean password? The fields are: `}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newConnectedEngine(t)
			sample := with(e.connectionSample(), c.data)
			for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
				e.refused(op, "connections/app", sample, c.want...)
			}
			e.refused(logical.UpdateOperation, "connections/new", sample, c.want...)
		})
	}
}

func TestTypeOfAConnectionIsFixed(t *testing.T) {
	e := newConnectedEngine(t)
	e.refused(logical.UpdateOperation, "connections/app", with(e.connectionSample(), fields{"type": "brief"}),
		"type: is test and cannot be changed; use another connection name")
	e.write("connections/brief", with(e.connectionSample(), fields{"type": "brief"}))
	checkSame(t, "type", any("brief"), e.read("connections/brief")["type"])
}

func TestURLOfAConnectionIsNormalised(t *testing.T) {
	e := newEngine(t)
	for given, want := range map[string]string{
		"HTTPS://Git.Example.com/":       "https://git.example.com",
		"https://git.example.com:8443//": "https://git.example.com:8443",
		"https://git.example.com/A/b%20": "https://git.example.com/A/b%20",
		"http://localhost:3000/":         "http://localhost:3000",
		"http://127.0.0.1":               "http://127.0.0.1",
		"http://[::1]:3000/git/":         "http://[::1]:3000/git",
	} {
		if got, err := parseURL(given); err != nil || got != want {
			t.Errorf("%s: want %s, got %s, %v", given, want, got, err)
		}
	}
	e.minting.alsoAt(t, "https://git.example.com")
	e.write("connections/app", with(e.connectionSample(), fields{"url": "https://GIT.example.com/"}))
	checkSame(t, "url", any("https://git.example.com"), e.read("connections/app")["url"])
}

// A type whose API always has the same URL needs no url.
func TestURLIsOptionalIfTheTypeSaysSo(t *testing.T) {
	e := newEngine(t)
	e.write("connections/aws", fields{
		"type": "ecr", "registry": "123456789012.dkr.ecr.eu-west-1.amazonaws.com", "region": "eu-west-1",
		"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": marker, "allowed_roles": "ci", "verify_connection": false,
	})
	if url, has := e.read("connections/aws")["url"]; has {
		t.Errorf("want no url, got %v", url)
	}
}

// Otherwise anyone who can write the connection could send its credential to their
// own host.
func TestRootCredentialGoesToNoOtherHost(t *testing.T) {
	const elsewhere = "https://elsewhere.example.com"
	e := newConnectedEngine(t)
	e.minting.alsoAt(t, elsewhere)
	e.minting.alsoAt(t, e.minting.url+":8443")
	for want, data := range map[string]fields{
		"url: names a new host; write password in the same request": {"url": elsewhere},
		"url: names a new host": {"url": e.minting.url + ":8443"},
		"registry: names a new host; write password in the same request": {"registry": "registry.example.com,evil.example.com"},
		"registry: names a new host":                                     {"registry": "registry.example.com:5000"},
	} {
		for _, more := range []fields{{}, {"verify_connection": false}, {"username": "other"}} {
			e.refused(logical.UpdateOperation, "connections/app", with(data, more), want)
			e.refused(logical.PatchOperation, "connections/app", with(data, more), want)
		}
	}
	e.write("connections/app", fields{"registry": "registry.example.com/team"})
	checkWarnings(t, warningsOf(e.write("connections/app", fields{"url": elsewhere, "registry": "other.example.com", "password": adminPassword})),
		"url: credentials that were minted at the former URL are given up: they are no longer served, and are not revoked")
	checkSame(t, "connection", with(e.connectionReadBack(), fields{"url": elsewhere, "registry": "other.example.com"}), e.read("connections/app"))
}

// Without a stored secret there is nothing to send to another host.
func TestConnectionWithoutSecretsMayMove(t *testing.T) {
	e := newEngine(t)
	e.minting.admins[""] = true
	e.write("connections/app", without(e.connectionSample(), "password"))
	e.write("connections/app", fields{"registry": "other.example.com"})
	checkSame(t, "registry", any("other.example.com"), e.read("connections/app")["registry"])
}

func TestConnectionIsStoredOnlyIfItsRegistryAcceptsIt(t *testing.T) {
	for want, err := range map[string]error{
		"answered 403 Forbidden: [redacted]":                 errRefused,
		"answered 500 Internal Server Error: [redacted]":     errAmbiguous,
		"there was no complete answer within the time limit": errDown,
		"answered 429 Too Many Requests; it can be asked a":  issuer.StatusError(http.StatusTooManyRequests, http.Header{"Retry-After": {"60"}}, ""),
	} {
		e := newConnectedEngine(t)
		e.minting.fail("check", err)
		for path, data := range map[string]fields{"connections/app": {"username": "other"}, "connections/new": e.connectionSample()} {
			e.refused(logical.UpdateOperation, path, data,
				"verify_connection: nothing is stored, because the check of the root credential failed: the registry's API at "+e.minting.url,
				want, "verify_connection=false stores the connection without this check")
			e.write(path, with(data, fields{"verify_connection": false}))
		}
		checkSame(t, "username", any("other"), e.read("connections/app")["username"])
	}
}

func TestWrongRootCredentialIsRefused(t *testing.T) {
	e := newEngine(t)
	e.refused(logical.UpdateOperation, "connections/app", with(e.connectionSample(), fields{"password": marker + "-wrong"}), "answered 401 Unauthorized: [redacted]")
	e.refused(logical.UpdateOperation, "connections/app", without(e.connectionSample(), "password"), "answered 401 Unauthorized")
}

func TestConnectionWriteWarns(t *testing.T) {
	for name, c := range map[string]struct {
		status issuer.Status
		write  fields
		want   []string
	}{
		"nothing to say":      {issuer.Status{}, nil, nil},
		"no roles":            {issuer.Status{}, fields{"allowed_roles": []any{}}, []string{"allowed_roles: is empty, so no role can use this connection"}},
		"registry normalised": {issuer.Status{}, fields{"registry": "Registry.Example.com"}, []string{`registry: stored as "registry.example.com"`}},
		"trailing newline":    {issuer.Status{}, fields{"password": adminPassword + "\n"}, []string{"password: "}},
		"said by its type":    {issuer.Status{Warnings: []string{"may do more than is needed"}}, nil, []string{"may do more than is needed"}},
		"expires soon":        {issuer.Status{ExpiresAt: noon.Add(defaultExpiryWarning)}, nil, []string{"the root credential expires at 2026-03-15T12:00:00Z; replace it with rotate-root, or write a new one"}},
		"expires later":       {issuer.Status{ExpiresAt: noon.Add(defaultExpiryWarning + 1)}, nil, nil},
		"not tried":           {issuer.Status{Warnings: []string{"never seen"}}, fields{"verify_connection": false}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			e.minting.status = c.status
			checkWarnings(t, warningsOf(e.write("connections/app", with(e.connectionSample(), c.write))), c.want...)
			checkWarnings(t, warningsOf(e.write("connections/app", with(fields{"username": "other"}, c.write))), c.want...)
		})
	}
	e := newEngine(t)
	checkWarnings(t, warningsOf(e.write("connections/app", without(e.connectionSample(), "allowed_roles"))), "allowed_roles: is not set, so no role can use this connection yet")
	checkWarnings(t, warningsOf(e.write("connections/app", fields{"username": "other"})))
}

func TestCheckReturnsTheIdentityOfTheRootCredential(t *testing.T) {
	e := newConnectedEngine(t)
	checkSame(t, "answer", fields{"identity": "the administrator"}, e.read("connections/app/check"))

	e.minting.status = issuer.Status{Identity: "bot 7", ExpiresAt: noon.Add(time.Hour), Warnings: []string{"may do more than is needed"}}
	checkSame(t, "answer", fields{"identity": "bot 7", "expires_at": "2026-03-01T13:00:00Z"}, e.read("connections/app/check"))
	checkWarnings(t, e.readWarnings("connections/app/check"), "may do more than is needed", "the root credential expires at 2026-03-01T13:00:00Z")
	e.write("config", fields{"expiry_warning": "59m"})
	checkWarnings(t, e.readWarnings("connections/app/check"), "may do more than is needed")

	e.minting.fail("check", errRefused)
	e.failed(logical.ReadOperation, "connections/app/check", nil, http.StatusBadGateway, "the registry's API at "+e.minting.url+": answered 403 Forbidden")
	e.failed(logical.ReadOperation, "connections/other/check", nil, http.StatusNotFound, `connection "other" does not exist; a write to connections/other creates it`)
}

// Another version of the plugin may have stored fields that this one refuses.
func TestConnectionThatCannotBeOpenedIsAnError(t *testing.T) {
	e := newConnectedEngine(t)
	stored := e.snapshot()["connections/app"]
	e.store("connections/app", strings.Replace(stored, `"username":"admin"`, `"x":"y"`, 1))
	e.refused(logical.ReadOperation, "connections/app/check", nil, "username: must be set")
	e.store("connections/app", strings.Replace(stored, `"registries"`, `"ca_pem":"no certificate","registries"`, 1))
	e.refused(logical.ReadOperation, "connections/app/check", nil, "ca_pem: must hold only PEM certificates")
	e.write("roles/app", fields{"connection": "app", "project": "a"})
	e.refusedWithTrace(logical.UpdateOperation, "rotate/app", nil, "ca_pem: must hold only PEM certificates")
}

func TestMalformedConnectionsAreErrors(t *testing.T) {
	for want, value := range map[string]string{
		`connection "app": this plugin does not know its type "future"`: `{"schema_version":1,"type":"future","registries":["a.example.com"],"secrets":{"token":"` + marker + `"}}`,
		`connection "app": the stored entry names no registry`:          `{"schema_version":1,"type":"test"}`,
	} {
		e := newConnectedEngine(t)
		e.write("roles/app", fields{"connection": "app", "project": "group/app"})
		e.store("connections/app", value)
		for op, path := range map[logical.Operation]string{logical.ReadOperation: "creds/app", logical.UpdateOperation: "connections/app", logical.PatchOperation: "roles/app"} {
			resp, err := e.request(op, path, map[logical.Operation]fields{logical.UpdateOperation: {"username": "me"}, logical.PatchOperation: {"project": "other"}}[op])
			if err == nil || resp != nil {
				t.Fatalf("%s %s: want an error, got response %v", op, path, resp)
			}
			checkContains(t, err.Error(), want)
		}
		e.must(logical.DeleteOperation, "roles/app", nil)
		e.must(logical.DeleteOperation, "connections/app", nil)
	}
}

func TestConnectionNamesOnlyAllowedRegistries(t *testing.T) {
	e := newEngine(t)
	e.write("config", fields{"allowed_registries": "registry.example.com"})
	e.write("connections/app", e.connectionSample())
	e.refused(logical.UpdateOperation, "connections/app", with(e.connectionSample(), fields{"registry": "registry.example.com,ghcr.io"}), `registry "ghcr.io"`)
}

func TestPatchNeedsTheConnection(t *testing.T) {
	e := newEngine(t)
	e.failed(logical.PatchOperation, "connections/app", e.connectionSample(), http.StatusNotFound, `connection "app" does not exist`)
	checkSame(t, "storage", map[string]string{}, e.snapshot())
}

func TestCreateOfAnExistingConnectionIsRefused(t *testing.T) {
	e := newConnectedEngine(t)
	before := e.snapshot()
	resp, err := e.direct(logical.CreateOperation, "connections/app")
	if err != nil || !resp.IsError() {
		t.Fatalf("want a refusal, got %v, %v", resp, err)
	}
	checkContains(t, resp.Error().Error(), `connection "app" was created meanwhile; try again`)
	checkSame(t, "storage", before, e.snapshot())
}

func TestConnectionsAreListedByName(t *testing.T) {
	e := newEngine(t)
	checkSame(t, "no connections", fields{}, e.must(logical.ListOperation, "connections/", nil).Data)
	for _, name := range []string{"b", "a.b-c", "B"} {
		e.write("connections/"+name, e.connectionSample())
	}
	for _, path := range []string{"connections", "connections/"} {
		checkSame(t, path, fields{"keys": []string{"B", "a.b-c", "b"}}, e.must(logical.ListOperation, path, nil).Data)
	}
}

func TestBadConnectionNamesAreRefused(t *testing.T) {
	e := newEngine(t)
	for _, name := range []string{"..", "a b", "-a", "ä"} {
		for _, op := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation} {
			e.refused(op, "connections/"+name, nil, "connection: must be at most 200 letters, digits and '_'")
		}
		e.refused(logical.ReadOperation, "connections/"+name+"/check", nil, "connection: must be at most 200 letters")
		e.refused(logical.UpdateOperation, "connections/"+name+"/rotate-root", nil, "connection: must be at most 200 letters")
	}
}

func TestMissingConnections(t *testing.T) {
	e := newConnectedEngine(t)
	for _, path := range []string{"connections/other", "connections/APP"} {
		if resp := e.must(logical.ReadOperation, path, nil); resp != nil {
			t.Errorf("%s: want no response (404), got %v", path, resp)
		}
		e.must(logical.DeleteOperation, path, nil)
	}
	e.failed(logical.UpdateOperation, "connections/other/rotate-root", nil, http.StatusNotFound, `connection "other" does not exist`)
	checkSame(t, "events", []string{}, e.sent())
}

func TestConnectionInUseCannotBeDeleted(t *testing.T) {
	e := newConnectedEngine(t)
	for i := range maxQuotedFields + 2 {
		e.write(fmt.Sprintf("roles/r%d", i), fields{"connection": "app", "project": "group/app"})
	}
	e.write("roles/leased", fields{"connection": "app", "project": "group/app", "mode": "leased"})
	e.read("creds/leased")
	e.minting.failAfter("mint", errAmbiguous)
	e.failed(logical.ReadOperation, "creds/leased", nil, http.StatusBadGateway)
	for _, data := range []fields{nil, {"force": true}} {
		e.refused(logical.DeleteOperation, "connections/app", data,
			`connection "app" is in use: roles leased, r0, r1, r2, r3 and 3 more, 1 leased credentials, 1 credentials waiting to be revoked; delete the roles`, "force=true gives up credentials")
	}
	for _, name := range e.must(logical.ListOperation, "roles/", nil).Data["keys"].([]string) {
		e.must(logical.DeleteOperation, "roles/"+name, nil)
	}
	e.refused(logical.DeleteOperation, "connections/app", nil, "is in use: 1 leased credentials, 1 credentials waiting")
	checkWarnings(t, warningsOf(e.must(logical.DeleteOperation, "connections/app", fields{"force": true})),
		"given up, and left at the registry: 1 leased credentials, 1 credentials waiting to be revoked")
	checkSame(t, "living credentials", 2, len(e.minting.names()))
	if err := e.rollBack(); err != nil {
		t.Errorf("rollback: %v", err)
	}
	checkSame(t, "storage", map[string]string{}, e.snapshot())
}

// A role that moved to another connection may still have credentials of the former
// one.
func TestConnectionWithCredentialsOfARoleThatLeftItIsInUse(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("connections/other", e.connectionSample())
	e.write("roles/app", fields{"connection": "app", "project": "group/app", "grace_period": "1h"})
	e.read("creds/app")
	e.write("roles/app", fields{"connection": "other", "project": "group/app"})
	e.refused(logical.DeleteOperation, "connections/app", nil, "is in use: 1 credentials waiting to be revoked")
	e.read("creds/app")
	e.refused(logical.DeleteOperation, "connections/app", nil, "is in use: 1 credentials waiting to be revoked")
	e.clock.advance(time.Hour)
	if err := e.rollBack(); err != nil {
		t.Fatal(err)
	}
	e.must(logical.DeleteOperation, "connections/app", nil)
	checkSame(t, "living credentials", e.served("app"), e.minting.names())
}

// A connection that is to be deleted is asked for its own roles, and not for all.
func TestDeletingAConnectionReadsItsOwnRoles(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("connections/other", e.connectionSample())
	for i := range 20 {
		e.write(fmt.Sprintf("roles/r%d", i), sharedRole)
		e.read(fmt.Sprintf("creds/r%d", i))
	}
	e.write("roles/left", with(sharedRole, fields{"connection": "other"}))
	e.read("creds/left")
	e.write("roles/left", sharedRole)
	next := e.restarted(t)
	recording := &recordingStorage{Storage: e.storage}
	err := onPath(logical.DeleteOperation, "connections/other")(next, recording)
	if err == nil || !strings.Contains(err.Error(), "is in use: 1 credentials waiting to be revoked") {
		t.Errorf("want the connection to be in use, got %v", err)
	}
	checkSame(t, "read", []string{"roles/left", "shared/left"}, recording.perRole())
	e.must(logical.DeleteOperation, "roles/left", nil)
	e.checkRolesOfConnections()
}

// What an earlier build stored is not in the index of a connection that its role
// has left.
func TestConnectionOfWhichAnEarlierBuildHasACredentialIsInUse(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("connections/other", e.connectionSample())
	e.write("roles/app", sharedRole)
	e.read("creds/app")
	e.storeAsBefore("app")
	e.write("roles/app", with(sharedRole, fields{"connection": "other"}))
	if err := e.storage.Delete(t.Context(), connectionRoleKey("app", "app")); err != nil {
		t.Fatal(err)
	}
	e.refused(logical.DeleteOperation, "connections/app", nil, "is in use: 1 credentials waiting to be revoked")
	e.read("creds/app")
	e.checkRolesOfConnections()
	e.refused(logical.DeleteOperation, "connections/app", nil, "is in use: 1 credentials waiting to be revoked")
	e.clock.advance(time.Hour)
	e.mustRollBack()
	e.checkRolesOfConnections()
	e.must(logical.DeleteOperation, "connections/app", nil)
}

// lockedStorage tells whether a connection is closed while roles are read.
type lockedStorage struct {
	logical.Storage
	engine *engine
	closed []string
}

func (s *lockedStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if lock := locksutil.LockForKey(s.engine.connectionUses, "app"); !strings.HasPrefix(key, roleStoragePrefix) && !strings.HasPrefix(key, sharedStoragePrefix) {
		// read for the connection itself
	} else if lock.TryRLock() {
		lock.RUnlock()
	} else {
		s.closed = append(s.closed, key)
	}
	return s.Storage.Get(ctx, key)
}

// While a connection is closed, nobody mints. So it is open while the roles that
// keep it from being deleted are read.
func TestMintsDoNotWaitForADeletionThatIsRefused(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("roles/app", sharedRole)
	e.read("creds/app")
	e.write("connections/other", e.connectionSample())
	e.write("roles/before", sharedRole)
	e.read("creds/before")
	e.storeAsBefore("before")
	next := e.restarted(t)
	watched := &lockedStorage{Storage: e.storage, engine: next}
	err := onPath(logical.DeleteOperation, "connections/app")(next, watched)
	if err == nil || !strings.Contains(err.Error(), "is in use: roles app, before") {
		t.Errorf("want the connection to be in use, got %v", err)
	}
	if err := onPath(logical.DeleteOperation, "connections/other")(next, watched); err != nil {
		t.Error(err)
	}
	checkSame(t, "read while the connection was closed", []string(nil), watched.closed)
}

func TestUnusedConnectionIsDeletedWithoutForce(t *testing.T) {
	e := newConnectedEngine(t)
	e.store(connectionRoleKey("app", "gone"), "") // as after a crash
	checkWarnings(t, warningsOf(e.must(logical.DeleteOperation, "connections/app", fields{"force": true})))
	if resp := e.must(logical.ReadOperation, "connections/app", nil); resp != nil {
		t.Errorf("want no response (404), got %v", resp)
	}
}

func TestAllowedRolesAndTargetsArePatterns(t *testing.T) {
	for _, c := range []struct {
		roles, targets []string
		role           string
		names          []string
		want           bool
	}{
		{nil, nil, "app", []string{"group/app"}, false},
		{[]string{"app"}, nil, "app", []string{"group/app"}, true},
		{[]string{"App", "ap", "app2"}, nil, "app", []string{"group/app"}, false},
		{[]string{"x", "a*"}, nil, "app", []string{"group/app"}, true},
		{[]string{"*"}, []string{"group/*"}, "app", []string{"group/app"}, true},
		{[]string{"*"}, []string{"group/*"}, "app", []string{"group2/app"}, false},
		{[]string{"*"}, []string{"group/*"}, "app", []string{"group/a", "other/b"}, false},
		{[]string{"*"}, []string{"group/*", "other/b"}, "app", []string{"group/a", "other/b"}, true},
		{[]string{"*"}, []string{"group/app"}, "app", []string{"group/app*"}, false},
		{[]string{"*"}, []string{"a"}, "app", []string{"*"}, false},
	} {
		conn := &connection{AllowedRoles: c.roles, AllowedTargets: c.targets}
		if got := conn.allowsRole(c.role) && conn.allowsTarget(issuer.Target{Names: c.names}); got != c.want {
			t.Errorf("%v %v: role %s for %v: want %v, got %v", c.roles, c.targets, c.role, c.names, c.want, got)
		}
	}
}

// null and an empty text are no way to say no.
func TestEmptyVerifyConnectionTurnsNoCheckOff(t *testing.T) {
	e := newEngine(t)
	bad := with(e.connectionSample(), fields{"password": "wrong"})
	e.refused(logical.UpdateOperation, "connections/app", with(bad, fields{"verify_connection": nil}), "verify_connection: nothing is stored")
	e.refused(logical.UpdateOperation, "connections/app", with(bad, fields{"verify_connection": ""}), "verify_connection: must be true or false")
	e.write("connections/app", with(bad, fields{"verify_connection": false}))
	e.refused(logical.PatchOperation, "connections/app", fields{"ca_pem": nil, "verify_connection": nil}, "verify_connection: nothing is stored")
}

func TestCheckSaysThatARotateRootIsNotFinished(t *testing.T) {
	e := newConnectedEngine(t)
	e.minting.fail("retire", errDown)
	e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway)
	checkWarnings(t, e.readWarnings("connections/app/check"), "rotate-root is not finished: "+notEnded)

	e = newConnectedEngine(t)
	e.minting.fail("activate", errDown)
	e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway)
	e.minting.mend()
	checkWarnings(t, e.readWarnings("connections/app/check")) // it has finished it
}
