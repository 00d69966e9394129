// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/cache"
	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/leaktest"
	"vault-plugin-secrets-regcred/backend/registry"
)

const (
	// marker is a part of every secret in these tests, and of nothing else. Every
	// response, error, log line and event is searched for it.
	marker   = "S3cr3t-Marker"
	password = marker + `<&>"\é1`
)

// noon is the time at which the clocks of the engines under test start.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type fields = map[string]any

// engine is a mount that tests drive as Vault drives it.
type engine struct {
	*backend
	t       testing.TB
	storage logical.Storage
	events  *logical.MockEventSender

	// registries replaces the network: no test dials anything.
	registries *fakeRegistries

	// minting is the registry for connections of type "test".
	minting *mintingRegistry

	clock *clock
	log   lockedBuffer
}

// lockedBuffer can be read while the engine logs.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// fakeRegistries answers verifications as a test sets it, by registry key, and
// records what it was asked.
type fakeRegistries struct {
	mu      sync.Mutex
	answers map[dockerconfig.Key]registry.Result
	asked   []string // registry key, user name and repository
	cas     *x509.CertPool
}

// answer sets what the registry of a key says to every credential.
func (f *fakeRegistries) answer(key dockerconfig.Key, result registry.Result) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[key] = result
}

func (f *fakeRegistries) Verify(_ context.Context, c dockerconfig.Credential, repository string) registry.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, fmt.Sprintf("%s %s %s", c.Registry, c.Username, repository))
	if answer, told := f.answers[c.Registry]; told {
		return answer
	}
	return registry.Result{Verdict: registry.OK, Accepted: true}
}

func newEngine(t testing.TB, change ...func(*logical.BackendConfig)) *engine {
	t.Helper()
	e := &engine{t: t, storage: &logical.InmemStorage{}, events: logical.NewMockEventSender()}
	conf := &logical.BackendConfig{
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &e.log}),
		System: &logical.StaticSystemView{
			PluginEnvironment:  &logical.PluginEnvironment{VaultVersion: "1.21.0"},
			DefaultLeaseTTLVal: 768 * time.Hour, MaxLeaseTTLVal: 768 * time.Hour, // as Vault has them
		},
		StorageView:  e.storage,
		EventsSender: e.events,
	}
	for _, c := range change {
		c(conf)
	}
	made, err := Factory("v1.2.3")(t.Context(), conf)
	if err != nil {
		t.Fatalf("Factory: %v", err)
	}
	e.backend = made.(*backend)
	e.clock = &clock{at: noon}
	e.now = e.clock.now
	var ids atomic.Int64
	e.newID = func() string { return fmt.Sprint("id-", ids.Add(1)) }
	e.sleep = func(context.Context, time.Duration) {}
	e.calls.patience = time.Minute // the machine may be busy
	e.calls.pause = 0              // what fails is mended at once, in most tests
	e.newHTTP = func(*x509.CertPool) *http.Client { return &http.Client{Transport: noNetwork{}} }
	e.minting = newMintingRegistry(t)
	e.registries = &fakeRegistries{answers: map[dockerconfig.Key]registry.Result{}}
	e.newVerifier = func(cas *x509.CertPool) verifier {
		e.registries.mu.Lock()
		defer e.registries.mu.Unlock()
		e.registries.cas = cas
		return e.registries
	}
	t.Cleanup(func() {
		e.Cleanup(context.Background())
		checkHoldsNoSecret(t, "the log", e.log.String())
		checkHoldsNoSecret(t, "the events", fmt.Sprint(e.events.Events))
	})
	return e
}

// request sends a request as Vault does: numbers in JSON keep their text, and an
// update of what does not exist is a create. It validates every response against
// its schema, and searches every response except pull secrets for secrets.
func (e *engine) request(op logical.Operation, path string, data fields) (*logical.Response, error) {
	e.t.Helper()
	req := &logical.Request{Operation: op, Path: path, Data: overJSON(e.t, data), Storage: e.storage}
	if op == logical.UpdateOperation {
		checked, exists, err := e.HandleExistenceCheck(e.t.Context(), req)
		checkHoldsNoSecret(e.t, "the error of the existence check of "+path, err)
		if err != nil {
			return nil, err
		}
		if checked && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	resp, err := e.HandleRequest(e.t.Context(), req)
	checkHoldsNoSecret(e.t, fmt.Sprintf("the error of %s %s", op, path), err)
	if !strings.HasPrefix(path, "creds/") || resp != nil && resp.IsError() {
		checkHoldsNoSecret(e.t, fmt.Sprintf("the answer to %s %s", op, path), resp)
	}
	if resp != nil {
		checkHoldsNoSecret(e.t, fmt.Sprintf("the warnings of %s %s", op, path), resp.Warnings)
		if resp.Auth != nil || resp.Secret != nil && !e.leases(path) {
			e.t.Errorf("%s %s has a lease", op, path)
		}
	}
	if err == nil && op != logical.HelpOperation && (resp != nil && !resp.IsError() || resp == nil && writes(op)) {
		e.checkSchema(req, resp)
	}
	return resp, err
}

// leases reports whether a path reads a leased role.
func (e *engine) leases(path string) bool {
	name, isCreds := strings.CutPrefix(path, "creds/")
	name, _, _ = strings.Cut(name, "/")
	r, err := e.role(context.Background(), e.storage, name)
	return isCreds && err == nil && r != nil && r.isLeased()
}

func (e *engine) checkSchema(req *logical.Request, resp *logical.Response) {
	e.t.Helper()
	t, ok := e.t.(*testing.T)
	if !ok {
		return
	}
	route := e.Route(req.Path)
	if resp != nil && resp.Data[logical.HTTPRawBody] != nil {
		return // Vault sends it as it is
	}
	declared := schema.GetResponseSchema(t, route, req.Operation)
	strict := !strings.HasPrefix(req.Path, "verify/") // which has a field for each registry
	schema.ValidateResponse(t, declared, resp, strict)
	if resp != nil && declared.Fields == nil && len(resp.Data) > 0 {
		t.Errorf("%s %s answers with data, and its schema has none: %v", req.Operation, req.Path, resp.Data)
	}
}

func writes(op logical.Operation) bool {
	return slices.Contains([]logical.Operation{logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation}, op)
}

// must sends a request that has to succeed.
func (e *engine) must(op logical.Operation, path string, data fields) *logical.Response {
	e.t.Helper()
	resp, err := e.request(op, path, data)
	if err != nil || resp != nil && resp.IsError() {
		e.t.Fatalf("%s %s: want success, got response %v, error %v", op, path, resp, err)
	}
	return resp
}

func (e *engine) write(path string, data fields) *logical.Response {
	e.t.Helper()
	return e.must(logical.UpdateOperation, path, data)
}

func (e *engine) patch(path string, data fields) {
	e.t.Helper()
	e.must(logical.PatchOperation, path, data)
}

// read returns the data of a read that has to succeed.
func (e *engine) read(path string) fields {
	e.t.Helper()
	resp := e.must(logical.ReadOperation, path, nil)
	if resp == nil {
		e.t.Fatalf("read %s: want data, got nothing (404)", path)
	}
	return resp.Data
}

func (e *engine) readWarnings(path string) []string {
	e.t.Helper()
	return e.must(logical.ReadOperation, path, nil).Warnings
}

// refused expects a request to get status 400 with a text that contains all parts,
// and to change nothing.
func (e *engine) refused(op logical.Operation, path string, data fields, parts ...string) {
	e.t.Helper()
	before, sent := e.snapshot(), len(e.events.Events)
	e.refusedWithTrace(op, path, data, parts...)
	checkSame(e.t, "storage after a refusal", before, e.snapshot())
	if len(e.events.Events) != sent {
		e.t.Errorf("%s %s: a refusal sent an event", op, path)
	}
}

// refusedWithTrace is refused for requests that may store a failed rotation.
func (e *engine) refusedWithTrace(op logical.Operation, path string, data fields, parts ...string) {
	e.t.Helper()
	resp, err := e.request(op, path, data)
	if err != nil || resp == nil || !resp.IsError() {
		e.t.Errorf("%s %s: want an error response, got response %v, error %v", op, path, resp, err)
		return
	}
	if status, _ := logical.RespondErrorCommon(&logical.Request{Operation: op}, resp, err); status != http.StatusBadRequest {
		e.t.Errorf("%s %s: want status 400, got %d", op, path, status)
	}
	checkContains(e.t, resp.Error().Error(), parts...)
}

// failed expects a request to fail with a status and a text that contains all
// parts.
func (e *engine) failed(op logical.Operation, path string, data fields, status int, parts ...string) {
	e.t.Helper()
	resp, err := e.request(op, path, data)
	var coded logical.HTTPCodedError
	if resp != nil || !errors.As(err, &coded) || coded.Code() != status {
		e.t.Errorf("%s %s: want an error with status %d, got response %v, error %v", op, path, status, resp, err)
		return
	}
	checkContains(e.t, err.Error(), parts...)
}

// sent returns the type and data path of each event so far, and clears the list.
func (e *engine) sent() []string {
	e.events.Lock()
	defer e.events.Unlock()
	sent := []string{}
	for _, event := range e.events.Events {
		sent = append(sent, fmt.Sprintf("%s %s", event.Type, event.Event.Metadata.AsMap()["data_path"]))
	}
	e.events.Events = nil
	return sent
}

// stored returns the value of a storage key.
func (e *engine) stored(key string) fields {
	e.t.Helper()
	var value fields
	if err := json.Unmarshal([]byte(e.snapshot()[key]), &value); err != nil {
		e.t.Fatalf("%s: %v", key, err)
	}
	return value
}

// snapshot returns the whole storage without the fence, and the mark that all roles were
// looked at, which say nothing.
func (e *engine) snapshot() map[string]string {
	e.waitForAttention()
	e.t.Helper()
	stored := map[string]string{}
	err := logical.ScanView(context.Background(), logical.NewStorageView(e.storage, ""), func(key string) {
		entry, err := e.storage.Get(context.Background(), key)
		if err != nil || entry == nil {
			e.t.Fatalf("reading %s: %v", key, err)
		}
		stored[key] = string(entry.Value)
	})
	if err != nil {
		e.t.Fatalf("listing the storage: %v", err)
	}
	delete(stored, fenceStorageKey)
	delete(stored, attentionCompleteKey)
	return stored
}

// store writes a raw entry, as another version of the plugin or a fault may have
// left it.
func (e *engine) store(key, value string) {
	e.t.Helper()
	if err := e.storage.Put(e.t.Context(), &logical.StorageEntry{Key: key, Value: []byte(value)}); err != nil {
		e.t.Fatalf("storing %s: %v", key, err)
	}
	e.InvalidateKey(e.t.Context(), key)
}

// through is the storage as requests see it, for tests that call functions below
// the handlers.
func (e *engine) through() logical.Storage { return e.cache.Over(e.storage) }

func overJSON(t testing.TB, data fields) fields {
	t.Helper()
	if data == nil {
		return nil
	}
	encoded, err := json.Marshal(data)
	if err != nil {
		t.Fatalf("encoding the request: %v", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.UseNumber()
	var decoded fields
	if err := decoder.Decode(&decoded); err != nil {
		t.Fatalf("decoding the request: %v", err)
	}
	return decoded
}

// planted finds the marker in any encoding.
var planted = func() *leaktest.Marks {
	var marks leaktest.Marks
	marks.Add("the secret of the test", marker)
	return &marks
}()

func checkHoldsNoSecret(t testing.TB, where string, value any) {
	t.Helper()
	if value == nil {
		return
	}
	encoded, _ := json.Marshal(value)
	if found := planted.In(fmt.Sprintf("%+v %s", value, encoded)); found != nil {
		t.Errorf("%s holds a secret: %q", where, found)
	}
}

func checkSame(t testing.TB, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func checkContains(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("want a text with %q, got %q", part, text)
		}
	}
}

// checkWarnings expects one warning for each part, and each to contain its part.
func checkWarnings(t testing.TB, got []string, parts ...string) {
	t.Helper()
	if len(got) != len(parts) {
		t.Errorf("want %d warnings %q, got %q", len(parts), parts, got)
		return
	}
	for i, part := range parts {
		checkContains(t, got[i], part)
	}
}

func warningsOf(resp *logical.Response) []string {
	if resp == nil {
		return nil
	}
	return resp.Warnings
}

func with(base, more fields) fields {
	merged := maps.Clone(base)
	maps.Copy(merged, more)
	return merged
}

// samples are writes that have to succeed, so that operations below their paths
// can be tried.
var samples = map[string]fields{
	"roles/app": {"registry": "ghcr.io", "username": "me", "password": password, "email": "me@example.com", "expires_at": "2027-01-31T00:00:00Z"},
	"config":    {"allowed_registries": "ghcr.io,*.example.com", "expiry_warning": "24h"},
}

// connectionSample is a write of a connection that its registry accepts.
func (e *engine) connectionSample() fields {
	return fields{"type": "test", "url": e.minting.url, "registry": "registry.example.com", "username": "admin", "password": adminPassword, "allowed_roles": "*"}
}

func newSampledEngine(t testing.TB, change ...func(*logical.BackendConfig)) *engine {
	t.Helper()
	e := newEngine(t, change...)
	for path, data := range samples {
		e.write(path, data)
	}
	e.write("connections/app", e.connectionSample())
	e.events.Events = nil
	return e
}

// everyOperation calls do with each operation that the engine has, on a path with
// the name app.
func everyOperation(t *testing.T, do func(t *testing.T, op logical.Operation, path string, properties framework.OperationProperties)) {
	t.Helper()
	e := newEngine(t)
	e.Route("config") // has the framework anchor the patterns
	parameter := regexp.MustCompile(`\(\?P<\w+>[^)]*\)`)
	for _, p := range e.Paths {
		path := strings.Trim(parameter.ReplaceAllString(p.Pattern, "app"), "^?$")
		for op, handler := range p.Operations {
			t.Run(fmt.Sprintf("%s %s", op, path), func(t *testing.T) { do(t, op, path, handler.Properties()) })
		}
	}
}

// direct sends a request without the steps that Vault takes before it.
func (e *engine) direct(op logical.Operation, path string) (*logical.Response, error) {
	e.t.Helper()
	req := &logical.Request{Operation: op, Path: path, Storage: e.storage}
	if op != logical.DeleteOperation && writes(op) {
		data := samples[path]
		if path == "connections/app" {
			data = e.connectionSample()
		}
		req.Data = overJSON(e.t, data)
	}
	return e.HandleRequest(e.t.Context(), req)
}

// faultyStorage counts its calls and fails at one of them. A write that fails does not
// happen, unless happens is set.
type faultyStorage struct {
	logical.Storage
	calls   atomic.Int64
	failAt  int64
	happens bool
}

// faulty returns the storage with a fault at one of its calls. The cache is empty,
// so that the engine makes all of them. What goes on in the background has ended.
func (e *engine) faulty(failAt int64) *faultyStorage {
	e.background.Wait()
	e.cache = cache.New().ForMount(cachedKeys())
	return &faultyStorage{Storage: e.storage, failAt: failAt}
}

var errStorage = errors.New("the disk is on fire")

func (s *faultyStorage) call() error {
	if s.calls.Add(1) == s.failAt {
		return errStorage
	}
	return nil
}

func (s *faultyStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if err := s.call(); err != nil {
		return nil, err
	}
	return s.Storage.Get(ctx, key)
}

func (s *faultyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.write(func() error { return s.Storage.Put(ctx, entry) })
}

func (s *faultyStorage) Delete(ctx context.Context, key string) error {
	if strings.HasPrefix(key, expiryStoragePrefix) {
		return errStorage // never a failure of the request
	}
	return s.write(func() error { return s.Storage.Delete(ctx, key) })
}

func (s *faultyStorage) write(do func() error) error {
	err := s.call()
	if err == nil || s.happens {
		err = errors.Join(do(), err)
	}
	return err
}

func (s *faultyStorage) List(ctx context.Context, prefix string) ([]string, error) {
	if err := s.call(); err != nil {
		return nil, err
	}
	return s.Storage.List(ctx, prefix)
}

// A nil response would be a 404, on which sync tools delete the Secret.
func TestEveryStorageFailureIsAnError(t *testing.T) {
	everyOperation(t, func(t *testing.T, op logical.Operation, path string, _ framework.OperationProperties) {
		if path == "connections/app/rotate-root" {
			return // leaves what is finished later: TestCrashAtEveryStepOrphansNothing
		}
		for failAt := int64(1); ; failAt++ {
			e := newSampledEngine(t)
			before := e.snapshot()
			e.attentions.forget() // as after a start
			faulty := e.faulty(failAt)
			e.storage = faulty
			resp, err := e.direct(op, path)
			calls := faulty.calls.Load()
			e.storage = faulty.Storage
			if calls < failAt { // none of them failed
				if failAt == 1 {
					t.Error("want use of the storage, got none")
				}
				return
			}
			if _, stored := e.snapshot()["connections/app"]; !stored && err == nil && path == "connections/app" {
				continue // deleted, and the index of its leases is cleaned up later
			}
			if _, stored := e.snapshot()["config"]; err == nil && (e.attentions.owes() || path == "config" && !stored) {
				continue // done, and what needs attention is looked at later: TestAttentionSurvivesEachFailure
			}
			if resp != nil || !errors.Is(err, errStorage) {
				t.Errorf("storage call %d fails: want its error and no response, got %v and %v", failAt, err, resp)
			}
			checkSame(t, "storage after a failure", withoutExpiries(before), withoutExpiries(e.snapshot()))
			if len(e.events.Events) > 0 {
				t.Errorf("storage call %d fails: want no event, got %v", failAt, e.events.Events)
			}
		}
	})
}

// withoutExpiries leaves out the indexes that may have extra keys.
func withoutExpiries(storage map[string]string) map[string]string {
	maps.DeleteFunc(storage, func(key, _ string) bool { return isExtraKey(key) })
	return storage
}

func isExtraKey(key string) bool {
	return slices.ContainsFunc([]string{expiryStoragePrefix, attentionPrefix, leaseAttentionPrefix, roleTypesPrefix, rootChecksPrefix}, func(prefix string) bool {
		return strings.HasPrefix(key, prefix)
	})
}

func TestExistenceCheckReportsStorageFailure(t *testing.T) {
	e := newSampledEngine(t)
	for path := range samples {
		req := &logical.Request{Operation: logical.CreateOperation, Path: path, Storage: e.faulty(1)}
		if _, _, err := e.HandleExistenceCheck(t.Context(), req); !errors.Is(err, errStorage) {
			t.Errorf("%s: want the storage's error, got %v", path, err)
		}
	}
}

func TestEveryOperationIsDescribed(t *testing.T) {
	e := newEngine(t)
	for _, p := range e.Paths {
		if p.HelpSynopsis == "" || p.HelpDescription == "" {
			t.Errorf("%s: want both help texts", p.Pattern)
		}
		if p.DisplayAttrs == nil || p.DisplayAttrs.OperationPrefix != operationPrefix {
			t.Errorf("%s: want DisplayAttrs with the operation prefix %q, got %+v", p.Pattern, operationPrefix, p.DisplayAttrs)
		}
		if _, creates := p.Operations[logical.CreateOperation]; creates != (p.ExistenceCheck != nil) {
			t.Errorf("%s: want an existence check exactly where it creates", p.Pattern)
		}
		checkFieldsDescribed(t, p.Pattern, p.Fields)
		for op, handler := range p.Operations {
			properties := handler.Properties()
			if properties.Summary == "" || len(properties.Responses) == 0 {
				t.Errorf("%s %s: want a summary and responses", op, p.Pattern)
			}
			for status, responses := range properties.Responses {
				if len(responses) != 1 || responses[0].Description == "" {
					t.Errorf("%s %s: want one described response for status %d, got %+v", op, p.Pattern, status, responses)
				}
				checkFieldsDescribed(t, fmt.Sprintf("%s %s", op, p.Pattern), responses[0].Fields)
			}
		}
	}
}

func checkFieldsDescribed(t *testing.T, where string, schema map[string]*framework.FieldSchema) {
	t.Helper()
	secret := []string{"password", "dockerconfigjson", ".dockerconfigjson", "config.json"}
	for name, field := range fieldsOfTypes(connectionFieldsOf) {
		if isSecretField(field) {
			secret = append(secret, name)
		}
	}
	for name, field := range schema {
		if field.Description == "" {
			t.Errorf("%s: want a description of field %q", where, name)
		}
		if sensitive := field.DisplayAttrs != nil && field.DisplayAttrs.Sensitive; sensitive != slices.Contains(secret, name) {
			t.Errorf("%s: field %q: sensitive is %v", where, name, sensitive)
		}
	}
}

func TestOpenAPIDocumentIsComplete(t *testing.T) {
	e := newEngine(t)
	resp, err := e.HandleRequest(t.Context(), &logical.Request{
		Operation: logical.HelpOperation, Data: fields{"requestResponsePrefix": operationPrefix}, Storage: e.storage,
	})
	if err != nil {
		t.Fatalf("help: %v", err)
	}
	checkContains(t, resp.Data["help"].(string), strings.TrimSpace(backendHelp))
	got := map[string]string{}
	for path, item := range resp.Data["openapi"].(*framework.OASDocument).Paths {
		for verb, op := range map[string]*framework.OASOperation{"GET": item.Get, "POST": item.Post, "PATCH": item.Patch, "DELETE": item.Delete} {
			if op != nil {
				got[verb+" "+path] = op.OperationID
			}
		}
	}
	checkSame(t, "operation IDs", map[string]string{
		"GET /config": "regcred-read-configuration",

		"GET /connections/":                    "regcred-list-connections",
		"GET /connections/{name}":              "regcred-read-connection",
		"POST /connections/{name}":             "regcred-write-connection",
		"PATCH /connections/{name}":            "regcred-patch-connection",
		"DELETE /connections/{name}":           "regcred-delete-connection",
		"GET /connections/{name}/check":        "regcred-check-connection",
		"POST /connections/{name}/rotate-root": "regcred-rotate-root-credential",
		"POST /rotate/{role}":                  "regcred-rotate-role",

		"POST /config":                 "regcred-configure",
		"DELETE /config":               "regcred-delete-configuration",
		"GET /roles/":                  "regcred-list-roles",
		"GET /metrics":                 "regcred-read-metrics",
		"GET /status":                  "regcred-read-status",
		"GET /roles/{role}":            "regcred-read-role",
		"POST /roles/{role}":           "regcred-write-role",
		"PATCH /roles/{role}":          "regcred-patch-role",
		"DELETE /roles/{role}":         "regcred-delete-role",
		"GET /creds/{role}":            "regcred-read-pull-secret",
		"GET /creds/{role}/kubernetes": "regcred-read-kubernetes-pull-secret",
		"GET /creds/{role}/docker":     "regcred-read-docker-config",
		"GET /expiring":                "regcred-read-expiring-roles",
		"POST /verify/{role}":          "regcred-verify-role",
	}, got)
}

func TestEngineReportsItsVersion(t *testing.T) {
	checkSame(t, "version", logical.PluginVersion{Version: "v1.2.3"}, newEngine(t).PluginVersion())
	checkSame(t, "type", logical.TypeLogical, newEngine(t).Type())
}

// Writes go to the active node of the primary. Every node answers reads and
// verifications, because they write nothing.
func TestOnlyWritesAreForwarded(t *testing.T) {
	for name, state := range map[string]consts.ReplicationState{
		"standby":   consts.ReplicationPerformanceStandby,
		"secondary": consts.ReplicationPerformanceSecondary,
	} {
		t.Run(name, func(t *testing.T) {
			everyOperation(t, func(t *testing.T, op logical.Operation, path string, _ framework.OperationProperties) {
				active := newSampledEngine(t)
				e := newEngine(t, func(conf *logical.BackendConfig) {
					conf.System = &logical.StaticSystemView{ReplicationStateVal: state}
				})
				e.storage = active.storage
				resp, err := e.direct(op, path)
				if writes(op) && !strings.HasPrefix(path, "verify/") || path == "status" || path == "metrics" {
					if !errors.Is(err, logical.ErrReadOnly) {
						t.Errorf("want ErrReadOnly, which Vault forwards on, got response %v, error %v", resp, err)
					}
				} else if err != nil || resp == nil || resp.IsError() {
					t.Errorf("want an answer, got response %v, error %v", resp, err)
				}
			})
		})
	}
}

// An operation that is not supported stays so, no matter which fields it has.
func TestNoOperationExceptThoseOfTheContract(t *testing.T) {
	e := newSampledEngine(t)
	for _, c := range []struct {
		op   logical.Operation
		path string
		want string
	}{
		{logical.ListOperation, "creds/", `creds/ has no list, so that no tool can copy every credential; "vault list regcred/roles" lists the names, and "vault read regcred/creds/<role>" reads one pull secret`},
		{logical.ListOperation, "creds", "creds/ has no list"},
		{logical.ReadOperation, "creds", "creds/ has no list"},
		{logical.ListOperation, "creds/app", `"regcred/creds/app" cannot be listed; what works is "vault read regcred/creds/app"`},
		{logical.ListOperation, "config", `"regcred/config" cannot be listed; what works is "vault read regcred/config", "vault write regcred/config", "vault delete regcred/config"`},
		{logical.UpdateOperation, "creds/app", `"regcred/creds/app" cannot be written; what works is "vault read regcred/creds/app"`},
		{logical.PatchOperation, "config", `"regcred/config" cannot be patched; what works is "vault read regcred/config", "vault write regcred/config", "vault delete regcred/config"`},
		{logical.UpdateOperation, "roles/", `"regcred/roles" cannot be written; what works is "vault list regcred/roles"`},
		{logical.ReadOperation, "roles/", `"regcred/roles" cannot be read; what works is "vault list regcred/roles", and "vault read regcred/roles/<name>" for one of them`},
		{logical.ReadOperation, "verify/app", `"regcred/verify/app" cannot be read; what works is "vault write -f regcred/verify/app"`},
		{logical.ReadOperation, "roles/app/", ""},
		{logical.ReadOperation, "creds/app/other", ""},
		{logical.ReadOperation, "creds/app/kubernetes/", ""},
		{logical.UpdateOperation, "", ""},
	} {
		req := &logical.Request{Operation: c.op, Path: c.path, MountPoint: "regcred/", Data: fields{"password": password}, Storage: e.storage}
		resp, err := e.HandleRequest(t.Context(), req)
		var coded logical.HTTPCodedError
		unsupported := errors.As(err, &coded) && coded.Code() == http.StatusMethodNotAllowed && strings.HasPrefix(err.Error(), c.want)
		if resp != nil || c.want != "" && !unsupported || c.want == "" && !errors.Is(err, logical.ErrUnsupportedPath) {
			t.Errorf("%s %q: want status 405 and %q, got response %v, error %v", c.op, c.path, c.want, resp, err)
		}
	}
}

func TestConcurrentUpdatesOfDifferentFieldsLoseNone(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", samples["roles/app"])
	e.storage = slowStorage{e.storage}
	var writers sync.WaitGroup
	for _, c := range []struct{ path, readPath, field, write, want string }{
		{"roles/app", "creds/app", "registry", "ghcr.io/r%d", "ghcr.io/r%d"},
		{"roles/app", "creds/app", "username", "u%d", "u%d"},
		{"roles/app", "creds/app", "password", marker + "%d", marker + "%d"},
		{"roles/app", "creds/app", "expires_at", "20%d-01-01T00:00:00Z", "20%d-01-01T00:00:00Z"},
		{"roles/app", "roles/app", "email", "e%d@example.com", "e%d@example.com"},
		{"config", "config", "allowed_registries", "*,r%d.example.com", "[* r%d.example.com]"},
		{"config", "config", "expiry_warning", "%ds", "%d"},
	} {
		writers.Go(func() {
			for i := 30; i < 60; i++ {
				e.write(c.path, fields{c.field: fmt.Sprintf(c.write, i)})
				want := fmt.Sprintf(c.want, i)
				if got := fmt.Sprint(e.read(c.readPath)[c.field]); got != want {
					t.Errorf("%s of %s: want %q after its write, got %q", c.field, c.path, want, got)
				}
			}
		})
	}
	writers.Wait()
}

// slowStorage lets other goroutines run between a read and the next write.
type slowStorage struct{ logical.Storage }

func (s slowStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	for range 10 {
		runtime.Gosched()
	}
	return s.Storage.Put(ctx, entry)
}

func TestOnlyErrorsOfTheCallerAreResponses(t *testing.T) {
	resp, err := answer(refusef("no"))
	checkSame(t, "the caller's mistake", logical.ErrorResponse("no"), resp)
	if err != nil {
		t.Errorf("want no error, got %v", err)
	}
	if resp, err := answer(errStorage); resp != nil || !errors.Is(err, errStorage) {
		t.Errorf("want the error itself, got response %v, error %v", resp, err)
	}
}
