// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// fuzzedOperations are the operations that Vault sends for requests of clients.
var fuzzedOperations = []logical.Operation{
	logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation,
	logical.ReadOperation, logical.ListOperation, logical.DeleteOperation, logical.HelpOperation,
}

// secretFields are the forms in which a request can hold its secret.
var secretFields = []func(string) fields{
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

// FuzzRequest sends requests that no schema has checked to a mount that has every
// kind of entry. [fuzzedMount.try] checks what must hold for any request.
func FuzzRequest(f *testing.F) {
	for i := range uint8(len(fuzzedOperations)) {
		for j := range uint8(len(secretFields)) {
			f.Add(i, j, "roles/app", "expires_at", `"2027-01-31T00:00:00+24:00"`, `{"auths":{"ghcr.io":`)
		}
		f.Add(i, uint8(1), "roles/new", "hostname", `"https://Ghcr.io/v2/"`, "me")
		f.Add(i, uint8(0), "config", "allowed_registries", `["*.example.com"]`, "")
		f.Add(i, uint8(0), "config", "expiry_warning", `"9999999999h"`, "")
		f.Add(i, uint8(5), "creds/app/docker", "version", `[1,2]`, "a:b")
		f.Add(i, uint8(2), "roles/", "role", `{"a":null}`, "\x00")
		f.Add(i, uint8(9), "connections/new", "allowed_roles", `["team-*"]`, "http://[::1]:3000/")
		f.Add(i, uint8(9), "connections/app", "allowed_targets", `"group/*"`, "https://me:x@git.example.com?a#b")
		f.Add(i, uint8(10), "connections/app", "registry", `"a.example.com,b.example.com"`, "\n")
		f.Add(i, uint8(0), "connections/app/check", "name", `"app"`, "")
		f.Add(i, uint8(0), "connections/app/rotate-root", "force", `true`, "")
		f.Add(i, uint8(11), "roles/new", "rotation_period", `"5s"`, "group/app")
		f.Add(i, uint8(11), "roles/shared", "grace_period", `1e9`, "")
		f.Add(i, uint8(12), "roles/leased", "max_ttl", `-1`, "group/app")
		f.Add(i, uint8(0), "creds/shared", "version", `"2"`, "")
		f.Add(i, uint8(0), "rotate/shared", "role", `null`, "")
		f.Add(i, uint8(0), "verify/shared", "repository", `"registry.example.com/group/app"`, "")
		f.Add(i, uint8(0), "roles/all", "members", `["app","shared"]`, "")
		f.Add(i, uint8(0), "expiring", "within", `"18446744083"`, "")
	}
	f.Fuzz(func(t *testing.T, op, shape uint8, path, field, value, text string) {
		if planted.In(path+" "+field+" "+value+" "+text) != nil {
			return // the engine does not hide secrets in names
		}
		m := newFuzzedMount(t)
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
		m.try(fuzzedOperations[int(op)%len(fuzzedOperations)], path, data)
	})
}

// fuzzedPaths and fuzzedBodies are the parts of the requests of [FuzzRequests]. The
// fuzzer supplies the text.
var (
	fuzzedPaths = []func(string) string{
		func(string) string { return "roles/app" },
		func(string) string { return "roles/shared" },
		func(string) string { return "roles/leased" },
		func(string) string { return "roles/all" },
		func(string) string { return "roles/new" },
		func(s string) string { return "roles/" + s },
		func(string) string { return "creds/app" },
		func(string) string { return "creds/shared/docker" },
		func(string) string { return "creds/leased" },
		func(string) string { return "creds/all/kubernetes" },
		func(string) string { return "creds/new" },
		func(s string) string { return "creds/" + s },
		func(string) string { return "rotate/shared" },
		func(string) string { return "rotate/new" },
		func(string) string { return "verify/all" },
		func(string) string { return "verify/new" },
		func(string) string { return "config" },
		func(string) string { return "connections/app" },
		func(string) string { return "connections/other" },
		func(s string) string { return "connections/" + s },
		func(string) string { return "connections/app/rotate-root" },
		func(string) string { return "connections/app/check" },
		func(string) string { return "expiring" },
		func(string) string { return "roles/" },
		func(string) string { return "connections/" },
		func(s string) string { return s },
	}
	fuzzedBodies = []func(m *fuzzedMount, text string) fields{
		func(*fuzzedMount, string) fields { return nil },
		func(*fuzzedMount, string) fields { return with(samples["roles/app"], fields{"allowed_bundles": "*"}) },
		func(*fuzzedMount, string) fields { return samples["config"] },
		func(m *fuzzedMount, _ string) fields { return m.connectionSample() },
		func(m *fuzzedMount, _ string) fields { return with(m.connectionSample(), fields{"type": "brief"}) },
		func(*fuzzedMount, string) fields { return with(sharedRole, fields{"allowed_bundles": "*"}) },
		func(*fuzzedMount, string) fields { return leasedRole },
		func(*fuzzedMount, string) fields { return fields{"members": "app,shared"} },
		func(_ *fuzzedMount, s string) fields { return fields{"members": s} },
		func(_ *fuzzedMount, s string) fields { return fields{"password": marker + s} },
		func(_ *fuzzedMount, s string) fields { return fields{"registry": s} },
		func(_ *fuzzedMount, s string) fields {
			return fields{"registry": s, "username": "u", "password": marker}
		},
		func(_ *fuzzedMount, s string) fields { return fields{"username": s, "email": s} },
		func(_ *fuzzedMount, s string) fields { return fields{"expires_at": s} },
		func(_ *fuzzedMount, s string) fields {
			return fields{"dockerconfigjson": `{"auths":{` + s + `"quay.io":{"auth":"` + b64("u:"+marker) + `"}}}`}
		},
		func(_ *fuzzedMount, s string) fields { return fields{"allowed_registries": s} },
		func(_ *fuzzedMount, s string) fields { return fields{"expiry_warning": s, "ca_pem": nil} },
		func(_ *fuzzedMount, s string) fields { return fields{"ca_pem": s} },
		func(_ *fuzzedMount, s string) fields { return fields{"url": s, "password": adminPassword} },
		func(_ *fuzzedMount, s string) fields { return fields{"allowed_roles": s, "allowed_targets": s} },
		func(*fuzzedMount, string) fields { return fields{"allowed_roles": "nobody"} },
		func(_ *fuzzedMount, s string) fields { return fields{"project": s, "projects": s} },
		func(_ *fuzzedMount, s string) fields { return fields{"connection": s, "project": s} },
		func(_ *fuzzedMount, s string) fields { return fields{"rotation_period": s, "grace_period": "0"} },
		func(_ *fuzzedMount, s string) fields { return fields{"ttl": s, "max_ttl": s} },
		func(_ *fuzzedMount, s string) fields { return fields{"verify": true, "verify_repository": s} },
		func(_ *fuzzedMount, s string) fields { return fields{"repository": s, "within": s} },
		func(_ *fuzzedMount, s string) fields { return fields{"mode": s, "type": s, "force": s} },
		func(_ *fuzzedMount, s string) fields { return fields{s: marker} },
		func(*fuzzedMount, string) fields {
			return fields{"password": nil, "email": nil, "expires_at": nil, "verify_repository": nil, "allowed_bundles": nil}
		},
	}
	// fuzzedTurns are the things that happen between requests.
	fuzzedTurns = []func(*fuzzedMount){
		func(m *fuzzedMount) { m.clock.advance(10 * time.Minute) },
		func(m *fuzzedMount) { m.clock.advance(25 * time.Hour) },
		func(m *fuzzedMount) { _ = m.rollBack() }, // its failures are logged, and tried again
		func(m *fuzzedMount) { m.InvalidateKey(m.t.Context(), "config") },
		func(m *fuzzedMount) { m.minting.fail("mint", errRefused) },
		func(m *fuzzedMount) { m.minting.failAfter("mint", errAmbiguous) },
		func(m *fuzzedMount) { m.minting.fail("revoke", errDown) },
		func(m *fuzzedMount) { m.minting.fail("activate", errAmbiguous) },
		func(m *fuzzedMount) { m.minting.failAfter("prepare", errDown) },
		func(m *fuzzedMount) { m.minting.mend() },
		func(m *fuzzedMount) { m.onLastLease(logical.RenewOperation) },
		func(m *fuzzedMount) { m.onLastLease(logical.RevokeOperation) },
		func(m *fuzzedMount) { m.restart() },
	}
)

// maxTurns is how many requests one input of [FuzzRequests] makes.
const maxTurns = 12

// FuzzRequests sends several requests to one mount. Between them time passes, the
// registry fails, leases end and the engine restarts. Three bytes of the program
// are one turn.
func FuzzRequests(f *testing.F) {
	turn := func(op logical.Operation, path, body int) []byte {
		return []byte{byte(slices.Index(fuzzedOperations, op)), byte(path), byte(body)}
	}
	other := func(i int) []byte { return []byte{byte(len(fuzzedOperations) + i), 0, 0} }
	for i := range fuzzedPaths {
		for _, op := range fuzzedOperations {
			f.Add(slices.Concat(turn(op, i, 0), turn(op, i, 0)), "new", "2027-01-31T00:00:00Z")
		}
	}
	for i := range fuzzedBodies {
		f.Add(slices.Concat(turn(logical.UpdateOperation, 0, i), turn(logical.PatchOperation, 4, i), turn(logical.UpdateOperation, 17, i)), "group/app", "1h")
		f.Add(slices.Concat(turn(logical.UpdateOperation, 1, i), turn(logical.UpdateOperation, 2, i), turn(logical.UpdateOperation, 16, i)), "18446744083", "")
	}
	for i := range fuzzedTurns {
		f.Add(slices.Concat(other(i), turn(logical.ReadOperation, 8, 0), turn(logical.UpdateOperation, 12, 0), other(i), turn(logical.UpdateOperation, 20, 0), other(2), turn(logical.DeleteOperation, 1, 0), other(9), other(2)), "", "")
	}
	f.Fuzz(func(t *testing.T, program []byte, one, two string) {
		if planted.In(one+" "+two) != nil {
			return
		}
		m := newFuzzedMount(t)
		texts := []string{one, two}
		for i := 0; i+2 < len(program) && i < 3*maxTurns; i += 3 {
			op, path, body := int(program[i])%(len(fuzzedOperations)+len(fuzzedTurns)), int(program[i+1]), int(program[i+2])
			if op >= len(fuzzedOperations) {
				fuzzedTurns[op-len(fuzzedOperations)](m)
				m.checkStored()
				continue
			}
			m.try(fuzzedOperations[op],
				fuzzedPaths[path%len(fuzzedPaths)](texts[path/len(fuzzedPaths)%2]),
				fuzzedBodies[body%len(fuzzedBodies)](m, texts[body/len(fuzzedBodies)%2]))
		}
		m.minting.mend()
		m.checkNothingOrphaned()
	})
}

// fuzzedMount is a mount that has every kind of entry.
type fuzzedMount struct {
	*engine
	lastLease *logical.Secret
	givenUp   bool // a credential was abandoned, and need not be revoked
}

func newFuzzedMount(t *testing.T) *fuzzedMount {
	m := &fuzzedMount{engine: newEngine(t)}
	for path, data := range samples {
		m.write(path, data)
	}
	m.write("roles/app", fields{"allowed_bundles": "*"})
	m.write("connections/app", m.connectionSample())
	m.write("roles/shared", with(sharedRole, fields{"allowed_bundles": "all"}))
	m.write("roles/leased", leasedRole)
	m.write("roles/all", fields{"members": "app,shared"})
	m.read("creds/shared")
	return m
}

// restart ends the engine, and starts another one on the same storage.
func (m *fuzzedMount) restart() {
	minting, clock, storage := m.minting, m.clock, m.storage
	m.Cleanup(context.Background())
	m.engine = newEngine(m.t)
	m.minting, m.clock, m.storage, m.now = minting, clock, storage, clock.now
}

func (m *fuzzedMount) onLastLease(op logical.Operation) {
	if m.lastLease == nil {
		return
	}
	if _, err := m.onLease(op, m.lastLease); err == nil && op == logical.RevokeOperation {
		m.lastLease = nil
	}
}

// try sends a request, and checks what must hold for any request.
func (m *fuzzedMount) try(op logical.Operation, path string, data fields) {
	m.t.Helper()
	before := m.snapshot()
	m.checkExistence(path, before)
	living := len(m.minting.names())
	faulty := m.minting.faulty()
	resp, err := m.request(op, path, data)
	m.background.Wait()
	after := m.snapshot()

	var coded logical.HTTPCodedError
	refused := err != nil || resp != nil && resp.IsError()
	switch errors.As(err, &coded); {
	case err == nil, errors.Is(err, logical.ErrUnsupportedPath):
	case coded != nil && (coded.Code() == http.StatusNotFound || coded.Code() == http.StatusMethodNotAllowed || coded.Code() == http.StatusBadGateway && faulty):
	case errors.Is(err, errDown) || faulty && isRegistryError(err):
	default:
		m.t.Errorf("%s %q: want an answer or a refusal, got the internal error %v", op, path, err)
	}
	switch {
	case refused && (coded == nil || coded.Code() != http.StatusBadGateway) && !strings.HasPrefix(path, "rotate/"):
		// A rotation that failed is remembered, and what is gone at the registry does
		// not stay in the index of leases.
		if op == logical.DeleteOperation && strings.HasPrefix(path, "connections/") {
			before, after = withoutLeases(before), withoutLeases(after)
		}
		checkSame(m.t, fmt.Sprintf("storage after %s %q was refused", op, path), before, after)
	case writes(op) && !strings.HasPrefix(path, "verify/"):
	case !mints(path):
		checkSame(m.t, fmt.Sprintf("storage after %s %q", op, path), before, after)
	}
	if refused && !faulty && len(m.minting.names()) > living {
		m.t.Errorf("%s %q was refused, and minted", op, path)
	}
	if resp != nil && resp.Secret != nil {
		lease := *resp.Secret
		lease.InternalData, lease.IssueTime = overJSON(m.t, lease.InternalData), m.clock.now()
		checkHoldsNoSecret(m.t, "the internal data of a lease", lease.InternalData)
		m.lastLease = &lease
	}
	if !refused && op == logical.DeleteOperation && strings.HasPrefix(path, "connections/") {
		m.givenUp = true // force may have been true
	}
	m.checkStored()
	if !refused && slices.Contains([]logical.Operation{logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation}, op) {
		m.checkAccepted(op, path, data)
	}
	m.checkServed()
}

func withoutLeases(storage map[string]string) map[string]string {
	kept := maps.Clone(storage)
	maps.DeleteFunc(kept, func(key, _ string) bool { return strings.HasPrefix(key, leaseIndexPrefix) })
	return kept
}

// mints reports whether reading a path may mint or replace a credential.
func mints(path string) bool {
	return strings.HasPrefix(path, "creds/") || strings.HasPrefix(path, "verify/")
}

// faulty reports whether a fault is set.
func (r *mintingRegistry) faulty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.before != nil || r.after != nil
}

func isRegistryError(err error) bool { return isBadGateway(registryError(err)) }

// checkExistence compares the existence check with what is stored.
func (m *fuzzedMount) checkExistence(path string, stored map[string]string) {
	m.t.Helper()
	checked, exists, err := m.HandleExistenceCheck(m.t.Context(), &logical.Request{Operation: logical.CreateOperation, Path: path, Data: fields{"password": []any{marker}}, Storage: m.storage})
	checkHoldsNoSecret(m.t, "the error of the existence check", err)
	if errors.Is(err, logical.ErrUnsupportedPath) {
		return
	}
	_, stands := stored[path]
	if err != nil || checked && exists != stands {
		m.t.Errorf("existence check of %q: exists %v, stored %v, error %v", path, exists, stands, err)
	}
}

// checkStored reads every stored entry.
func (m *fuzzedMount) checkStored() {
	m.t.Helper()
	ctx := m.t.Context()
	for key, value := range m.snapshot() {
		var err error
		prefix, name, _ := strings.Cut(key, "/")
		switch prefix {
		case "config":
			_, err = m.config(ctx, m.storage)
		case "roles":
			_, err = m.role(ctx, m.storage, name)
		case "connections":
			_, err = m.connection(ctx, m.storage, name)
		case "shared":
			_, err = m.shared(ctx, m.storage, name)
		case "expiries":
			if _, role, ok := parseExpiryKey(name); !ok || checkName(role) != nil {
				err = errors.New("no key of the index")
			}
		case "due":
			if _, role, ok := parseDueKey(name); !ok || checkName(strings.TrimPrefix(role, connectionMark)) != nil {
				err = errors.New("no key of the index")
			}
		case "connection-roles":
			if connection, role, ok := strings.Cut(name, "/"); !ok || checkName(connection) != nil || checkName(role) != nil {
				err = errors.New("no key of the index")
			}
		case "bundle-members":
			if member, bundle, ok := strings.Cut(name, "/"); !ok || checkName(member) != nil || checkName(bundle) != nil {
				err = errors.New("no key of the index")
			}
		case "role-types", "lease-attention":
			if kind, of, ok := strings.Cut(name, "/"); !ok || kind == "" || value != "" || checkName(of) != nil {
				err = errors.New("no key of the index")
			}
		case "attention":
			if strings.HasPrefix(name, bundlesMark) || strings.HasPrefix(name, rolesMark) {
				break // it is empty
			}
			var stored storedAttention
			_, err = getEntry(ctx, m.storage, key, &stored, &stored.SchemaVersion)
		case "root-checks":
			var stored rootCheck
			_, err = getEntry(ctx, m.storage, key, &stored, &stored.SchemaVersion)
		case "leases":
			var stored storedLease
			_, err = getEntry(ctx, m.storage, key, &stored, &stored.SchemaVersion)
		case "wal":
			var entry *framework.WALEntry
			if entry, err = framework.GetWAL(ctx, m.storage, name); err == nil {
				var stored storedWAL
				err = decodeWAL(entry.Data, &stored, &stored.SchemaVersion)
			}
		default:
			err = errors.New("not known")
		}
		if err != nil {
			m.t.Errorf("stored under %q: %v: %s", key, err, value)
		}
	}
}

// checkAccepted reads back what was accepted and writes it again, which must change
// nothing.
func (m *fuzzedMount) checkAccepted(op logical.Operation, path string, data fields) {
	m.t.Helper()
	kind, name, _ := strings.Cut(path, "/")
	if strings.Contains(name, "/") || kind != "roles" && kind != "connections" && path != "config" {
		return
	}
	read := m.read(path)
	for field, value := range data {
		if seconds, isDuration := asSeconds(value); isDuration && m.Route(path).Fields[field].Type == framework.TypeDurationSecond && read[field] != nil {
			checkSame(m.t, fmt.Sprintf("%s of %s, written as %v", field, path, value), seconds, fmt.Sprint(read[field]))
		}
	}
	if kind == "roles" && read["type"] == typeStatic {
		m.checkFaithful(path, data)
	}
	if m.minting.faulty() {
		return
	}
	before := m.snapshot()
	if op == logical.CreateOperation {
		op = logical.UpdateOperation
	}
	if resp, err := m.request(op, path, data); err != nil || resp != nil && resp.IsError() {
		m.t.Errorf("%s %s %v was accepted, and is not a second time: %v, %v", op, path, data, resp, err)
	}
	checkSame(m.t, "storage after the same again", before, m.snapshot())
}

// asSeconds returns the read-back of a duration that was written as a number of
// seconds.
func asSeconds(value any) (text string, ok bool) {
	text = strings.TrimLeft(fmt.Sprint(value), "0")
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return "", false
	}
	return text, true
}

// checkFaithful expects a pull secret to hold what was written.
func (m *fuzzedMount) checkFaithful(path string, data fields) {
	m.t.Helper()
	resp, err := m.request(logical.ReadOperation, "creds/"+strings.TrimPrefix(path, "roles/"), nil)
	if err != nil || resp.IsError() {
		return // no longer allowed: see checkServed
	}
	for _, field := range []string{"username", "password"} {
		want, written := data[field].(string)
		want = strings.TrimLeft(want, "\ufeff")
		got, single := resp.Data[field].(string)
		if !written || !single || got == want {
			continue
		}
		if field != "password" || got != strings.TrimSuffix(want, "\n") && got != strings.TrimSuffix(want, "\r\n") {
			m.t.Errorf("%s of %s: want %q as it was written, got %q", field, path, want, got)
		}
	}
}

// checkServed reads every role and its pull secret, or the reason why there is
// none.
func (m *fuzzedMount) checkServed() {
	m.t.Helper()
	for key := range m.snapshot() {
		name, isRole := strings.CutPrefix(key, "roles/")
		if !isRole {
			continue
		}
		if readBack := m.read(key); readBack["mode"] == modeLeased || m.minting.faulty() {
			continue
		}
		// A read replaces in the background what is due. The next form would differ.
		_, _ = m.request(logical.ReadOperation, "creds/"+name, nil)
		m.background.Wait()
		forms := map[string]fields{}
		for _, form := range []string{"", "/kubernetes", "/docker"} {
			resp, err := m.request(logical.ReadOperation, "creds/"+name+form, nil)
			var coded logical.HTTPCodedError
			switch {
			case errors.As(err, &coded) && coded.Code() == http.StatusBadGateway:
				return // back-off: the engine does not try again at once
			case err != nil || resp == nil:
				m.t.Errorf("reading creds/%s: want an answer, got %v, %v", name, resp, err)
				return
			case !resp.IsError():
				forms[form] = resp.Data
			}
		}
		if len(forms) == 3 {
			m.checkPullSecret(name, forms[""], forms["/kubernetes"], forms["/docker"])
		} else if len(forms) > 0 {
			m.t.Errorf("creds/%s is refused in some forms only", name)
		}
	}
}

// checkPullSecret expects the three forms of one Docker config.
func (m *fuzzedMount) checkPullSecret(name string, all, kubernetes, docker fields) {
	m.t.Helper()
	text, _ := all[".dockerconfigjson"].(string)
	config, _, err := dockerconfig.Parse(text)
	if err != nil || string(config.JSON()) != text || len(config.Keys()) == 0 {
		m.t.Errorf("creds/%s: want a Docker config that is read as it was written, got %q, %v", name, text, err)
		return
	}
	checkSame(m.t, "the base64 of creds/"+name, any(base64.StdEncoding.EncodeToString([]byte(text))), all["dockerconfigjson"])
	checkSame(m.t, "creds/"+name+"/kubernetes", fields{".dockerconfigjson": text}, kubernetes)
	checkSame(m.t, "creds/"+name+"/docker", fields{"config.json": string(config.AuthJSON())}, docker)
	credentials := config.Credentials()
	if password, single := all["password"]; single != (len(credentials) == 1) || single && password != credentials[0].Password.Reveal() {
		m.t.Errorf("creds/%s: want the password where there is one registry, got %v of %d", name, single, len(credentials))
	}
	for field, value := range all {
		switch value.(type) {
		case string, int64:
		default:
			m.t.Errorf("creds/%s: field %s is a %T", name, field, value)
		}
	}
}

// checkNothingOrphaned expects every credential at the registry to be in storage,
// so that the engine can revoke it.
func (m *fuzzedMount) checkNothingOrphaned() {
	m.t.Helper()
	if m.givenUp {
		return
	}
	stored := fmt.Sprint(m.snapshot())
	for _, name := range m.minting.names() {
		if !strings.Contains(stored, name) {
			m.t.Errorf("%s is alive at the registry, and storage does not know", name)
		}
	}
}
