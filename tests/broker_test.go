// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"vault-plugin-secrets-regcred/backend/issuer/httpbroker/brokertest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// TestBrokerOfARealRegistry has the program in examples/http-broker mint users of a real
// registry, and pulls with them.
func TestBrokerOfARealRegistry(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	registry := servers.StartRegistry(t, "admin", "s3cr3t")
	broker := servers.StartBroker(t, registry)
	image := registry.Addr + "/team/app:1"
	clients.Push(t, image, "admin", "s3cr3t")
	write(t, v.Client, "regcred/connections/broker", fields{"type": "http", "url": broker.URL, "registry": registry.Addr, "token": broker.Token, "allowed_roles": "*"})
	write(t, v.Client, "regcred/roles/shared", fields{"connection": "broker", "grace_period": 0})
	write(t, v.Client, "regcred/roles/leased", fields{"connection": "broker", "mode": "leased"})

	first := credentialOf(read(t, v.Client, "regcred/creds/shared"))
	leased := credentialOf(read(t, v.Client, "regcred/creds/leased"))
	if !pulls(t, image, first) || !pulls(t, image, leased) {
		t.Error("want both credentials to pull")
	}
	if got := read(t, v.Client, "regcred/connections/broker/check"); got["identity"] != "vault" {
		t.Errorf("check: want the identity vault, got %v", got)
	}
	write(t, v.Client, "regcred/rotate/shared", nil)
	second := credentialOf(read(t, v.Client, "regcred/creds/shared"))
	if same(first, second) || !pulls(t, image, second) {
		t.Error("want a new credential that pulls after a rotation")
	}
	servers.Eventually(t, func() error {
		read(t, v.Client, "regcred/creds/shared") // starts the work that is due
		if pulls(t, image, first) {
			return fmt.Errorf("the former credential pulls")
		}
		return nil
	})
	if err := v.Client.Sys().RevokePrefix("regcred/creds/leased"); err != nil {
		t.Fatal(err)
	}
	servers.Eventually(t, func() error {
		if pulls(t, image, leased) {
			return fmt.Errorf("the revoked credential pulls")
		}
		return nil
	})
}

// TestNoScopeIsMintedThatIsNotOpen attacks as a team with a policy and a token of its
// own. The requests that reach the broker decide, not the answers of Vault.
func TestNoScopeIsMintedThatIsNotOpen(t *testing.T) {
	t.Parallel()
	v, s := servers.StartVault(t), brokertest.New(t)
	var mu sync.Mutex
	var minted []string
	s.Watch(func(r *http.Request) {
		if !s.MintMatch(r) {
			return
		}
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		var in struct{ Scopes []string }
		_ = json.Unmarshal(body, &in)
		mu.Lock()
		defer mu.Unlock()
		minted = append(minted, strings.Join(in.Scopes, ","))
	}, nil)
	escaped := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(minted)
	}
	connect(t, v.Client, "regcred/connections/open", "http", s.Connection(), fields{"allowed_roles": "team-a-*", "allowed_targets": "team-a/*"})
	connect(t, v.Client, "regcred/connections/foreign", "http", s.Connection(), fields{"allowed_roles": "team-b-*"})
	if err := v.Client.Sys().PutPolicy("team-a", authorityPolicy); err != nil {
		t.Fatal(err)
	}
	token, err := v.NewToken("team-a")
	if err != nil {
		t.Fatal(err)
	}
	team := withToken(t, v.Client, token)
	try := func(connection string, scopes any, mode string) {
		data := fields{"connection": connection, "scopes": scopes, "mode": mode}
		if scopes == nil {
			delete(data, "scopes")
		}
		_, _ = team.Logical().Delete("regcred/roles/team-a-app")
		_, _ = team.Logical().Write("regcred/roles/team-a-app", data)
		_, _ = team.Logical().Read("regcred/creds/team-a-app")
		_, _ = team.Logical().Write("regcred/rotate/team-a-app", nil)
		_, _ = team.Logical().Write("regcred/verify/team-a-app", fields{"repository": "team-a/app"})
	}
	attacks := []any{
		nil, "", "team-b/app", "*", "team-a/*", "team-a", "Team-A/app", "team-a/../team-b/app", "team-a//app", "team-a/app,team-b/app",
		[]string{"team-a/app", "team-b/app"},
		"team-a/app team-b/app", "team-a/app\nteam-b/app", "team-a/%2e%2e/team-b", `["team-a/app","team-b/app"]`, " team-b/app", "team-a\\..\\team-b", "team-a/app\x00",
		fields{"a": "team-a/app"},
	}
	for _, mode := range []string{"shared", "leased"} {
		for _, scopes := range attacks {
			try("open", scopes, mode)
		}
		try("foreign", "team-a/app", mode)
		try("foreign", nil, mode)
	}
	if got := escaped(); len(got) > 0 {
		t.Errorf("the team has made the broker mint for %q", got)
	}

	// Without this the test proves nothing: the same requests mint what is open.
	for _, mode := range []string{"shared", "leased"} {
		try("open", "team-a/app", mode)
	}
	if got := escaped(); len(got) < 2 || slices.ContainsFunc(got, func(scopes string) bool { return scopes != "team-a/app" }) {
		t.Errorf("want the team to mint for its own scope, got %q", got)
	}

	// What was open is checked at each mint.
	before := len(escaped())
	write(t, v.Client, "regcred/connections/open", fields{"allowed_targets": "team-c/*"})
	_, _ = team.Logical().Write("regcred/rotate/team-a-app", nil)
	_, _ = team.Logical().Read("regcred/creds/team-a-app")
	if got := escaped()[before:]; len(got) > 0 {
		t.Errorf("after the connection was closed, the broker has minted for %q", got)
	}
}

// brokerSchema compiles the definitions of the protocol, one for each kind of message.
func brokerSchema(t *testing.T, definition string) *jsonschema.Schema {
	t.Helper()
	path := filepath.Join(servers.Repo(), "docs", "connections", "regcred-broker-v1.schema.json")
	schema, err := jsonschema.NewCompiler().Compile("file://" + path + "#/$defs/" + definition)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// TestBrokersSpeakTheirProtocol validates what the engine and both brokers say against the
// schema, while a connection does all that it can.
func TestBrokersSpeakTheirProtocol(t *testing.T) {
	t.Parallel()
	v, memory := servers.StartVault(t), brokertest.New(t)
	registry := servers.StartRegistry(t, "admin", "s3cr3t")
	program := servers.StartBroker(t, registry)
	proxied := issuertest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { forward(t, program.URL, w, r) }))
	for name, b := range map[string]struct {
		server     *issuertest.Server
		connection fields
		role       fields
		rotates    bool
	}{
		"memory":  {memory.Server, connected("http", memory.Connection()), dynamic("memory", memory.Role(), nil), true},
		"program": {proxied, fields{"type": "http", "url": proxied.URL, "registry": registry.Addr, "token": program.Token}, fields{"connection": "program"}, false},
	} {
		seen := validate(t, name, b.server)
		b.connection["allowed_roles"] = "*"
		write(t, v.Client, "regcred/connections/"+name, b.connection)
		for _, mode := range []string{"shared", "leased"} {
			role := fields{"mode": mode}
			for field, value := range b.role {
				role[field] = value
			}
			write(t, v.Client, "regcred/roles/"+name+"-"+mode, role)
			read(t, v.Client, "regcred/creds/"+name+"-"+mode)
		}
		if b.rotates {
			write(t, v.Client, "regcred/connections/"+name+"/rotate-root", nil)
		}
		if err := v.Client.Sys().RevokePrefix("regcred/creds/" + name + "-leased"); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"roles/" + name + "-shared", "roles/" + name + "-leased"} {
			if _, err := v.Client.Logical().Delete("regcred/" + path); err != nil {
				t.Fatal(err)
			}
		}
		if got := b.connection["token"]; got != "" {
			_, _ = v.Client.Logical().Write("regcred/connections/"+name, fields{"token": "token-of-nobody"})
		}
		want := []string{"check", "credential", "ended", "error", "mint", "operations", "search"}
		if b.rotates {
			want = []string{"check", "credential", "ended", "error", "mint", "operations", "root", "rootName", "search"}
		}
		servers.Eventually(t, func() error { // the role's credential is revoked in the background
			if got := seen(); !slices.Equal(got, want) {
				return fmt.Errorf("%s: want messages of the kinds %q, got %q", name, want, got)
			}
			return nil
		})
	}
}

// validate has all messages of a broker validated. It returns a function that returns the
// kinds that were seen.
func validate(t *testing.T, name string, s *issuertest.Server) (seen func() []string) {
	t.Helper()
	schemas := map[string]*jsonschema.Schema{}
	for _, kind := range []string{"operations", "check", "mint", "credential", "search", "ended", "root", "rootName", "error"} {
		schemas[kind] = brokerSchema(t, kind)
	}
	var mu sync.Mutex
	kinds := map[string]bool{}
	check := func(kind string, text []byte) {
		message, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err == nil {
			err = schemas[kind].Validate(message)
		}
		if err != nil {
			t.Errorf("%s: a message of the kind %s: %v\n%s", name, kind, err, text)
		}
		mu.Lock()
		defer mu.Unlock()
		kinds[kind] = true
	}
	s.InjectFault(-1, nil, func(w http.ResponseWriter, r *http.Request, act http.Handler) {
		request, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(request))
		recorded := &recorder{header: http.Header{}, status: http.StatusOK}
		act.ServeHTTP(recorded, r)
		_, path, _ := strings.Cut(r.URL.Path, "/v1")
		call := r.Method + " " + path
		if body, ok := map[string]string{"POST /credentials": "mint", "POST /root": "rootName"}[call]; ok {
			check(body, request)
		}
		kind := map[string]string{
			"GET ": "operations", "GET /check": "check", "POST /credentials": "credential", "GET /credentials": "search", "DELETE /credentials": "ended", "POST /root": "root", "DELETE /root": "ended", "DELETE /root/self": "ended",
		}[call]
		if recorded.status >= 300 {
			kind = "error"
		}
		if kind == "" {
			t.Errorf("%s: a call that the protocol does not have: %s", name, call)
		} else {
			check(kind, recorded.body.Bytes())
		}
		for field, values := range recorded.header {
			w.Header()[field] = values
		}
		w.WriteHeader(recorded.status)
		_, _ = w.Write(recorded.body.Bytes())
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		var all []string
		for kind := range kinds {
			all = append(all, kind)
		}
		slices.Sort(all)
		return all
	}
}

type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header                { return r.header }
func (r *recorder) WriteHeader(status int)             { r.status = status }
func (r *recorder) Write(text []byte) (n int, e error) { return r.body.Write(text) }

// forward has another server answer a request.
func forward(t *testing.T, to string, w http.ResponseWriter, r *http.Request) {
	out, err := http.NewRequestWithContext(t.Context(), r.Method, to+r.URL.RequestURI(), r.Body)
	if err != nil {
		t.Error(err)
		return
	}
	out.Header = r.Header.Clone()
	resp, err := http.DefaultClient.Do(out)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

var definition = regexp.MustCompile(`<!-- ([a-zA-Z]+) -->\s*$`)

// TestMessagesOnThePageAreOfTheProtocol validates each JSON block of the page. The comment
// before it names its definition in the schema.
func TestMessagesOnThePageAreOfTheProtocol(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(servers.Repo(), "docs", "connections", "http.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for i, part := range strings.Split(string(text), "```json\n") {
		if i == 0 {
			continue
		}
		before := strings.Split(string(text), "```json\n")[i-1]
		named := definition.FindStringSubmatch(before)
		if named == nil {
			t.Errorf("a JSON block without a comment that names its definition: %.60s", part)
			continue
		}
		block, _, _ := strings.Cut(part, "```")
		message, err := jsonschema.UnmarshalJSON(strings.NewReader(block))
		if err == nil {
			err = brokerSchema(t, named[1]).Validate(message)
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", named[1], err, block)
		}
		shown[named[1]] = true
	}
	if len(shown) < 9 {
		t.Errorf("want a message of each kind on the page, got %v", shown)
	}
}
