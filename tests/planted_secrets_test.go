// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/acr/acrtest"
	"vault-plugin-secrets-regcred/backend/issuer/artifactory/artifactorytest"
	"vault-plugin-secrets-regcred/backend/issuer/dockerhub/dockerhubtest"
	"vault-plugin-secrets-regcred/backend/issuer/ecr/ecrtest"
	"vault-plugin-secrets-regcred/backend/issuer/gar/gartest"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/harbor/harbortest"
	"vault-plugin-secrets-regcred/backend/issuer/httpbroker/brokertest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/backend/issuer/quay/quaytest"
	"vault-plugin-secrets-regcred/backend/leaktest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// planting is a Vault that logs at level trace and audits to a file. Tests
// plant secrets in it and search for them.
type planting struct {
	t *testing.T
	*servers.Vault
	audit string

	// secrets must appear in no place except the fields of creds/ that are for
	// them.
	secrets leaktest.Marks

	// keys are secrets that were sent as the key of an object. Vault itself
	// does not hide those in the audit file.
	keys leaktest.Marks

	// personal are values of fields that are read back. They may be in answers,
	// but not in a log or the audit file.
	personal leaktest.Marks

	requests int
}

func newPlanting(t *testing.T) *planting {
	t.Helper()
	p := &planting{t: t, Vault: servers.StartVault(t), audit: filepath.Join(t.TempDir(), "audit.log")}
	options := &api.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": p.audit}}
	if err := p.Client.Sys().EnableAuditWithOptions("file", options); err != nil {
		t.Fatal(err)
	}
	return p
}

// holdsNone searches a text that others can see.
func (p *planting) holdsNone(where, text string) {
	p.t.Helper()
	for _, leak := range p.secrets.In(text) {
		p.t.Errorf("%s: %s", where, leak)
	}
}

// holdsNoKeys searches a text that is not the audit file.
func (p *planting) holdsNoKeys(where, text string) {
	p.t.Helper()
	for _, leak := range p.keys.In(text) {
		p.t.Errorf("%s: %s", where, leak)
	}
}

// core are the fields of an answer that hold a credential by design.
var core = []string{"dockerconfigjson", ".dockerconfigjson", "config.json", "password"}

// send sends a request and searches all that comes back, headers included. In
// answers of creds/ it leaves out the core, and searches for the core
// everywhere from then on.
func (p *planting) send(method, path string, body any) (status int, answer map[string]any) {
	p.t.Helper()
	p.requests++
	var sent io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		sent = strings.NewReader(body)
	default:
		encoded, err := json.Marshal(body)
		if err != nil {
			p.t.Fatal(err)
		}
		sent = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.Addr+"/v1/"+path, sent)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", p.Token)
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	_ = json.Unmarshal(text, &answer) // some have no body
	if data, isMap := answer["data"].(map[string]any); isMap && strings.HasPrefix(path, "regcred/creds/") {
		p.plantCore(path, data)
		if text, err = json.Marshal(answer); err != nil {
			p.t.Fatal(err)
		}
	}
	where, all := fmt.Sprintf("%s %s answered %d", method, path, resp.StatusCode), fmt.Sprintf("%s %v %s", resp.Status, resp.Header, text)
	p.holdsNone(where, all)
	p.holdsNoKeys(where, all)
	return resp.StatusCode, answer
}

// plantCore removes the core from an answer and adds it to the secrets.
func (p *planting) plantCore(path string, data map[string]any) {
	p.t.Helper()
	for _, text := range []any{data[".dockerconfigjson"], data["config.json"]} {
		config, isText := text.(string)
		if !isText {
			continue
		}
		parsed, _, err := dockerconfig.Parse(config)
		if err != nil {
			p.t.Fatalf("%s: %v", path, err)
		}
		for _, c := range parsed.Credentials() {
			p.secrets.Add("what "+path+" has served", c.Password.Reveal())
		}
	}
	for _, field := range core {
		delete(data, field)
	}
}

// must sends a request that must succeed.
func (p *planting) must(method, path string, body any) map[string]any {
	p.t.Helper()
	status, answer := p.send(method, path, body)
	if status != http.StatusOK && status != http.StatusNoContent {
		p.t.Fatalf("%s %s: want success, got status %d: %v", method, path, status, answer["errors"])
	}
	return answer
}

// TestPlantedSecretsAreNowhere plants secrets in every field of every path, and
// in every fault. It searches for them, whole, in pieces and in every encoding,
// in all answers, logs and audit entries, and in what the system shows of the
// process.
func TestPlantedSecretsAreNowhere(t *testing.T) {
	t.Parallel()
	p := newPlanting(t)
	p.plantInFields()
	p.plantInDockerConfigs()
	p.plantInWrongPlaces()
	p.must(http.MethodDelete, "regcred/config", nil) // the config may allow some registries only
	for kind, start := range echoing {
		mount := "regcred/connections/" + kind
		p.plantInFaults(kind, mount, start(p))
	}
	p.plantInVerification()
	p.plantInLeases()
	p.lookAtEverything()
	p.lookAtProcess()
	p.lookAtLogs()
}

// described returns the fields of each operation that writes, by path, from the
// OpenAPI document.
func (p *planting) described() map[string]map[string]map[string]any {
	p.t.Helper()
	_, document := p.send(http.MethodGet, "sys/internal/specs/openapi", nil)
	all := map[string]map[string]map[string]any{}
	for path, item := range document["paths"].(map[string]any) {
		rest, ours := strings.CutPrefix(path, "/regcred/")
		if !ours {
			continue
		}
		all[rest] = map[string]map[string]any{}
		for method, described := range item.(map[string]any) {
			operation, _ := described.(map[string]any)
			if _, isOperation := operation["operationId"].(string); !isOperation {
				continue
			}
			body, _ := operation["requestBody"].(map[string]any)
			content, _ := body["content"].(map[string]any)
			media, _ := content["application/json"].(map[string]any)
			schema, _ := media["schema"].(map[string]any)
			all[rest][strings.ToUpper(method)], _ = schema["properties"].(map[string]any)
		}
	}
	return all
}

// shapes are the forms in which a secret may be sent in a field, right ones and
// wrong ones.
var shapes = map[string]func(string) any{
	"as text":            func(s string) any { return s },
	"with special":       func(s string) any { return s[:12] + `<&>"\'%+ é` + s[12:] },
	"with a newline":     func(s string) any { return s + "\n" },
	"with NUL":           func(s string) any { return s[:12] + "\x00\x1b[31m" + s[12:] },
	"that is no UTF-8":   func(s string) any { return json.RawMessage(`"` + s[:12] + "\xff" + s[12:] + `"`) },
	"in a list":          func(s string) any { return []any{s, map[string]any{"a": s}} },
	"in an object":       func(s string) any { return map[string]any{"a": s, "b": []any{s}} },
	"as an object's key": func(s string) any { return map[string]any{s: true} },
	"that is too long":   func(s string) any { return strings.Repeat(s, 40_000) },
	"in a URL":           func(s string) any { return "https://robot:" + s + "@registry.example.com/" },
}

// plantInFields sends a secret in each field of each path, in every shape.
func (p *planting) plantInFields() {
	p.t.Helper()
	server := issuertest.NewServer(p.t, http.NotFoundHandler())
	whole := map[string]fields{
		"roles/{role}":       {"registry": "registry.example.com", "username": "robot", "password": p.secrets.New("password of roles/app")},
		"connections/{name}": {"type": "harbor", "url": server.URL, "registry": "registry.example.com", "username": "admin", "password": p.secrets.New("password of connections/app"), "verify_connection": false},
		"config":             {"expiry_warning": "24h"},
		"verify/{role}":      {},
	}
	planted := map[string]bool{}
	for path, operations := range p.described() {
		at := "regcred/" + strings.NewReplacer("{role}", "app", "{name}", "app").Replace(path)
		for method, described := range operations {
			if method != http.MethodPost && method != http.MethodPatch {
				continue
			}
			for _, field := range append(slices.Sorted(maps.Keys(described)), "pasword") {
				for shape, make := range shapes {
					if base := whole[path]; base != nil && method == http.MethodPost {
						p.send(method, at, base)
					}
					where := fmt.Sprintf("%s of %s %s, %s", field, method, path, shape)
					value := make(p.planted(field, shape, where))
					encoded, err := json.Marshal(with(whole[path], fields{field: value}))
					if raw, isRaw := value.(json.RawMessage); isRaw {
						encoded, err = json.Marshal(with(whole[path], fields{field: "RAW"}))
						encoded = bytes.Replace(encoded, []byte(`"RAW"`), raw, 1)
					}
					if err != nil {
						p.t.Fatal(err)
					}
					p.send(method, at, string(encoded))
					planted[path+" "+field] = true
				}
				p.send(http.MethodGet, at, nil)
			}
		}
	}
	if len(planted) < 40 {
		p.t.Errorf("want the fields of all paths, more than forty, got %d: %v", len(planted), planted)
	}
}

func with(base, more fields) fields {
	all := maps.Clone(base)
	if all == nil {
		all = fields{}
	}
	maps.Copy(all, more)
	return all
}

// planted returns a secret for a field. The value of a field that is no secret
// is shown to those who may read it, and repeated in errors. The name under
// which a registry was stored is in warnings, which Vault writes to its audit
// file as they are.
func (p *planting) planted(field, shape, where string) string {
	registries := []string{"registry", "hostname", "allowed_registries"}
	secretFields := []string{"password", "dockerconfigjson", "token", "secret_access_key", "ca_pem", "pasword"}
	switch {
	case shape == "as an object's key" && slices.Contains(secretFields, field):
		return p.keys.New(where)
	case shape == "as an object's key":
		return new(leaktest.Marks).New(where)
	case slices.Contains(secretFields, field), shape == "in a URL" && slices.Contains(append(registries, "url"), field):
		return p.secrets.New(where)
	case slices.Contains(registries, field):
		return new(leaktest.Marks).New(where)
	}
	return p.personal.New(where)
}

// plantInDockerConfigs sends secrets in Docker configs, valid and broken.
func (p *planting) plantInDockerConfigs() {
	p.t.Helper()
	basic := func(password string) string {
		return base64.StdEncoding.EncodeToString([]byte("u:" + password))
	}
	for name, config := range map[string]func(string) string{
		"whole":             func(s string) string { return `{"auths":{"ghcr.io":{"username":"u","password":"` + s + `"}}}` },
		"auth only":         func(s string) string { return `{"auths":{"ghcr.io":{"auth":"` + basic(s) + `"}}}` },
		"cut off":           func(s string) string { return `{"auths":{"ghcr.io":{"username":"u","password":"` + s },
		"one comma":         func(s string) string { return `{"auths":{"ghcr.io":{"username":"u",,"password":"` + s + `"}}}` },
		"auth is no base64": func(s string) string { return `{"auths":{"ghcr.io":{"auth":"` + "u:" + s + `"}}}` },
		"auth without a colon": func(s string) string {
			return `{"auths":{"ghcr.io":{"auth":"` + base64.StdEncoding.EncodeToString([]byte(s)) + `"}}}`
		},
		"auth differs": func(s string) string {
			return `{"auths":{"ghcr.io":{"username":"u","password":"other","auth":"` + basic(s) + `"}}}`
		},
		"auth of another user": func(s string) string {
			return `{"auths":{"ghcr.io":{"username":"x","password":"` + s + `","auth":"` + basic(s) + `"}}}`
		},
		"identity token":       func(s string) string { return `{"auths":{"ghcr.io":{"identitytoken":"` + s + `"}}}` },
		"registry token":       func(s string) string { return `{"auths":{"ghcr.io":{"auth":"","registrytoken":"` + s + `"}}}` },
		"password is a list":   func(s string) string { return `{"auths":{"ghcr.io":{"username":"u","password":["` + s + `"]}}}` },
		"auths is a text":      func(s string) string { return `{"auths":"` + s + `"}` },
		"an entry is a text":   func(s string) string { return `{"auths":{"ghcr.io":"` + s + `"}}` },
		"the secret alone":     func(s string) string { return s },
		"user name with colon": func(s string) string { return `{"auths":{"ghcr.io":{"username":"u:","password":"` + s + `"}}}` },
		"twice": func(s string) string {
			return `{"auths":{"ghcr.io":{"auth":"` + basic(s) + `"},"Ghcr.io/":{"auth":"` + basic(s) + `"}}}`
		},
		"in the registry": func(s string) string {
			return `{"auths":{"https://u:` + s + `@ghcr.io":{"auth":"` + basic(s) + `"}}}`
		},
		"with NUL": func(s string) string {
			return `{"auths":{"ghcr.io":{"username":"u","password":"` + s + `\u0000"}}}`
		},
		"helpers": func(s string) string {
			return `{"credsStore":"x","auths":{"ghcr.io":{}},"HttpHeaders":{"Authorization":"` + s + `"}}`
		},
	} {
		text := config(p.secrets.New("a Docker config, " + name))
		for _, form := range []string{text, base64.StdEncoding.EncodeToString([]byte(text)), base64.StdEncoding.EncodeToString([]byte(text))[1:]} {
			p.send(http.MethodPost, "regcred/roles/docker", fields{"dockerconfigjson": form})
			p.send(http.MethodGet, "regcred/roles/docker", nil)
		}
	}
}

// plantInWrongPlaces sends secrets where people have put them by mistake.
func (p *planting) plantInWrongPlaces() {
	p.t.Helper()
	key := p.secrets.New("a private key in ca_pem")
	pem := "-----BEGIN PRIVATE KEY-----\n" + base64.StdEncoding.EncodeToString([]byte(key+key)) + "\n-----END PRIVATE KEY-----\n"
	for _, path := range []string{"regcred/config", "regcred/connections/app"} {
		p.send(http.MethodPost, path, fields{"ca_pem": pem})
		p.send(http.MethodPost, path, fields{"ca_pem": key})
	}
	for _, text := range []string{"https://u:%s@h.example.com", "h.example.com?token=%s", "h.example.com#%s", "h.example.com:%s"} {
		for path, field := range map[string]string{"roles/app": "registry", "roles/new": "hostname", "config": "allowed_registries", "connections/app": "url"} {
			p.send(http.MethodPost, "regcred/"+path, fields{field: fmt.Sprintf(text, p.secrets.New(field+" like "+text))})
		}
	}
	p.send(http.MethodPost, "regcred/roles/app", fields{"registry": "other.example.com", "password": p.secrets.New("the password of another host")})
	p.send(http.MethodPost, "regcred/roles/app", `{"password":"`+p.secrets.New("a body that is cut off"))
	p.send(http.MethodPost, "regcred/roles/app", `["`+p.secrets.New("a body that is a list")+`"]`)
	p.send(http.MethodPost, "regcred/creds/app", fields{"password": p.secrets.New("a write to creds/")})
	p.send(http.MethodPost, "regcred/nothing", fields{"password": p.secrets.New("a path that is not there")})
}

// echoServer is a registry whose API returns what it was sent, and more.
type echoServer struct {
	*issuertest.Server
	fields, role fields
	rotates      bool
}

// echoing starts one of each type.
var echoing = map[string]func(*planting) echoServer{
	"artifactory": func(p *planting) echoServer {
		s := artifactorytest.New(p.t)
		c := s.Connection()
		p.secrets.Add("token of connections/artifactory", c.Secrets["token"].Reveal())
		return echoServer{s.Server, connected("artifactory", c), dynamic("artifactory", s.Role(), nil), true}
	},
	"dockerhub": func(p *planting) echoServer {
		s := dockerhubtest.New(p.t)
		password := p.secrets.New("password of connections/dockerhub")
		s.AddUser("echoed", password, dockerhubtest.Organization)
		return echoServer{s.Server, connected("dockerhub", s.ConnectionAs("echoed", password)), dynamic("dockerhub", s.Role(), nil), false}
	},
	"gitlab": func(p *planting) echoServer {
		s := gitlabtest.New(p.t)
		token := s.AddToken(s.AddUser("root", true), "of the administrator", []string{"api"}, 90)
		p.secrets.Add("token of connections/gitlab", token)
		return echoServer{s.Server, connected("gitlab", s.ConnectionWith(token)), dynamic("gitlab", s.Role(), nil), true}
	},
	"harbor": func(p *planting) echoServer {
		s := harbortest.New(p.t)
		password := "Aa1" + p.secrets.New("password of connections/harbor")
		s.AddUser("echoed", password, true)
		return echoServer{s.Server, connected("harbor", s.ConnectionAs("echoed", password)), dynamic("harbor", s.Role(), nil), true}
	},
	"ecr": func(p *planting) echoServer {
		s := ecrtest.New(p.t)
		c := s.Connection()
		for _, secret := range c.Secrets.Reveal() {
			p.secrets.Add("secret key of connections/ecr", secret)
		}
		return echoServer{s.Server, connected("ecr", c), dynamic("ecr", s.Role(), nil), true}
	},
	"quay": func(p *planting) echoServer {
		s := quaytest.New(p.t)
		c := s.Connection()
		p.secrets.Add("token of connections/quay", c.Secrets["token"].Reveal())
		return echoServer{s.Server, connected("quay", c), dynamic("quay", s.Role(), nil), false}
	},
	"http": func(p *planting) echoServer {
		s := brokertest.New(p.t)
		c := s.Connection()
		p.secrets.Add("token of connections/http", c.Secrets["token"].Reveal())
		return echoServer{s.Server, connected("http", c), dynamic("http", s.Role(), nil), true}
	},
	"acr": func(p *planting) echoServer {
		s := acrtest.New(p.t)
		c := s.Connection()
		for _, secret := range c.Secrets.Reveal() {
			p.secrets.Add("client secret of connections/acr", secret)
		}
		return echoServer{s.Server, connected("acr", c), dynamic("acr", s.Role(), nil), true}
	},
	"gar": func(p *planting) echoServer {
		s := gartest.New(p.t)
		c := s.Connection()
		p.secrets.Add("key of connections/gar", gartest.PrivateLine())
		return echoServer{s.Server, connected("gar", c), dynamic("gar", s.Role(), nil), true}
	},
	"gitea": func(p *planting) echoServer {
		// It only echoes; other tests use a real Gitea.
		s := issuertest.NewServer(p.t, http.NotFoundHandler())
		return echoServer{s, fields{"type": "gitea", "url": s.URL, "registry": s.Host(), "username": "alice", "password": p.secrets.New("password of connections/gitea")}, fields{"connection": "gitea", "user": "alice"}, false}
	},
}

// connected returns the fields of a connection.
func connected(kind string, c issuer.Connection) fields {
	all := fields{"type": kind, "url": c.URL}
	var registries []string
	for _, key := range c.Registries {
		registries = append(registries, key.ImageName())
	}
	all["registry"] = strings.Join(registries, ",")
	for field, value := range c.Settings {
		all[field] = value
	}
	for field, secret := range c.Secrets {
		all[field] = secret.Reveal()
	}
	return all
}

// echo answers with all that a request holds, in every place that an answer
// has, and with other secrets of the registry.
func echo(status int, known string) issuertest.Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		body, _ := io.ReadAll(r.Body)
		_, password, _ := r.BasicAuth()
		said := strings.Join([]string{known, password, r.Header.Get("Private-Token"), r.Header.Get("Authorization"), string(body)}, " ")
		line := strings.Map(func(c rune) rune {
			if c < ' ' || c > '~' {
				return -1
			}
			return c
		}, said)
		for _, name := range []string{"WWW-Authenticate", "Location", "Retry-After", "X-Amzn-Errortype", "X-Total-Count", "X-Next-Page", "Set-Cookie", "X-Request-Id", "Content-Type"} {
			w.Header().Set(name, line)
		}
		w.Header().Set("Location", "http://"+strings.ReplaceAll(known, "/", "")+".example.com/"+known)
		if status != http.StatusNoContent {
			w.Header().Set("Content-Type", "application/json")
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"message": said, "error": known, "error_description": said, "details": line,
			"errors":   []map[string]string{{"code": known, "message": said}},
			"username": known, "login": known, "user_id": 1, "id": 1, "name": known, "auth_mode": known,
			"scopes": []string{"api", known}, "active": true, "project_id": 1, "sysadmin_flag": true, "is_admin": true,
			"__type": known,
		})
	}
}

// plantInFaults makes the API of a registry return secrets in every answer.
func (p *planting) plantInFaults(kind, path string, s echoServer) {
	p.t.Helper()
	known := ""
	for _, field := range []string{"token", "password", "secret_access_key"} {
		if text, set := s.fields[field].(string); set {
			known = text
		}
	}
	leased, shared := "regcred/roles/"+kind+"-leased", "regcred/roles/"+kind
	p.must(http.MethodPost, path, with(s.fields, fields{"allowed_roles": "*", "verify_connection": kind != "gitea"}))
	p.must(http.MethodPost, leased, with(s.role, fields{"mode": "leased", "verify_repository": nil}))
	p.must(http.MethodPost, shared, with(s.role, fields{"rotation_period": "1h"}))
	if kind != "gitea" {
		p.must(http.MethodGet, "regcred/creds/"+kind, nil)
		p.must(http.MethodGet, "regcred/creds/"+kind+"-leased", nil)
	}
	for _, status := range []int{200, 201, 204, 307, 400, 401, 403, 404, 412, 429, 500} {
		// The engine cannot recognise a secret that was replaced.
		p.send(http.MethodPost, path, with(s.fields, fields{"verify_connection": false}))
		s.InjectFault(-1, nil, echo(status, known))
		for _, asked := range []struct {
			method, path string
			body         any
		}{
			{http.MethodPost, path, s.fields},
			{http.MethodGet, path + "/check", nil},
			{http.MethodPost, path + "/rotate-root", nil},
			{http.MethodGet, path, nil},
			{http.MethodGet, "regcred/creds/" + kind + "-leased", nil},
			{http.MethodPost, "regcred/rotate/" + kind, nil},
			{http.MethodGet, shared, nil},
			{http.MethodGet, "regcred/creds/" + kind, nil},
			{http.MethodPost, "regcred/verify/" + kind + "-leased", fields{"repository": "team/app"}},
			{http.MethodPost, leased, fields{"verify": true}},
		} {
			p.send(asked.method, asked.path, asked.body)
		}
		if status == 403 { // Vault logs why it cannot revoke
			p.send(http.MethodPut, "sys/leases/revoke-prefix/regcred/creds/"+kind+"-leased", nil)
		}
		s.ClearFaults()
	}
	p.send(http.MethodPost, path+"/rotate-root", nil) // a connection that works, and whose secrets nobody sees
	p.send(http.MethodGet, path, nil)
}

// plantInVerification uses a registry that returns the credential when it is
// asked to prove a pull.
func (p *planting) plantInVerification() {
	p.t.Helper()
	password := p.secrets.New("password of roles/verified")
	for _, status := range []int{200, 301, 401, 403, 404, 429, 500, 503} {
		for _, challenge := range []string{`Basic realm="%s"`, `Bearer realm="http://%[2]s/token?p=%[1]s",service="%[1]s",scope="%[1]s"`, "%[1]s x=%[2]s"} {
			var host string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v2/" && r.Header.Get("Authorization") == "" {
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(challenge, password, host))
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				echo(status, password)(w, r, nil)
			}))
			host = strings.TrimPrefix(server.URL, "http://")
			role := fields{"registry": host, "username": "robot", "password": password}
			p.send(http.MethodPost, "regcred/roles/verified", role)
			p.must(http.MethodPost, "regcred/verify/verified", fields{"repository": "team/app"})
			p.must(http.MethodPost, "regcred/verify/verified", nil)
			p.send(http.MethodPost, "regcred/roles/verified", with(role, fields{"verify": true, "verify_repository": "team/app"}))
			server.Close()
		}
	}
	p.must(http.MethodPost, "regcred/verify/verified", nil) // of the registry that is down now
}

// plantInLeases searches what Vault shows of the leases. It also kills the
// plugin, once with a dump of its goroutines, while a mint is in progress.
func (p *planting) plantInLeases() {
	p.t.Helper()
	s := gitlabtest.New(p.t)
	for _, secret := range s.Connection().Secrets.Reveal() {
		p.secrets.Add("token of connections/held", secret)
	}
	p.must(http.MethodPost, "regcred/connections/held", with(connected("gitlab", s.Connection()), fields{"allowed_roles": "*"}))
	p.must(http.MethodPost, "regcred/roles/held", dynamic("held", s.Role(), fields{"mode": "leased", "ttl": "1h"}))
	answer := p.must(http.MethodGet, "regcred/creds/held", nil)
	lease := fields{"lease_id": answer["lease_id"]}
	for _, path := range []string{"sys/leases/lookup", "sys/leases/renew"} {
		if got := p.must(http.MethodPut, path, lease); got == nil {
			p.t.Errorf("%s tells nothing", path)
		}
	}
	p.must("LIST", "sys/leases/lookup/regcred/creds/held", nil)
	p.dieWhileMinting(s)
	p.must(http.MethodGet, "regcred/creds/held", nil)
	p.must(http.MethodPut, "sys/leases/revoke", lease)
}

// lookAtEverything reads and lists every path, and asks each for its help.
func (p *planting) lookAtEverything() {
	p.t.Helper()
	for path, operations := range p.described() {
		at := "regcred/" + strings.NewReplacer("{role}", "gitlab", "{name}", "gitlab").Replace(path)
		p.must(http.MethodGet, at+"?help=1", nil)
		for method := range operations {
			switch {
			case method == http.MethodGet && strings.HasSuffix(path, "/"):
				p.send("LIST", at, nil)
			case method == http.MethodGet:
				p.send(http.MethodGet, at, nil)
			}
		}
	}
	for _, key := range []string{"roles", "connections"} {
		_, list := p.send("LIST", "regcred/"+key, nil)
		for _, name := range list["data"].(map[string]any)["keys"].([]any) {
			p.send(http.MethodGet, fmt.Sprintf("regcred/%s/%s", key, name), nil)
			if key == "roles" {
				p.send(http.MethodDelete, fmt.Sprintf("regcred/%s/%s", key, name), nil)
			}
		}
	}
	p.send(http.MethodGet, "regcred/expiring?within=999999h", nil)
	p.send(http.MethodGet, "regcred/status", nil)
	p.send(http.MethodGet, "regcred/metrics", nil)
	p.send(http.MethodGet, "sys/mounts/regcred", nil)
	p.send(http.MethodGet, "sys/plugins/catalog/secret/"+servers.PluginName, nil)
}

// lookAtLogs searches the audit file, and the log of Vault and the plugin.
func (p *planting) lookAtLogs() {
	p.t.Helper()
	content, err := os.ReadFile(p.audit)
	if err != nil {
		p.t.Fatal(err)
	}
	entries := 0
	for line := range strings.Lines(string(content)) {
		var entry struct{ Request struct{ Path string } }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			p.t.Fatalf("audit file: %v", err)
		}
		if strings.HasPrefix(entry.Request.Path, servers.Mount+"/") {
			entries++
		}
	}
	if entries < p.requests { // a request and an answer for each that is the engine's
		p.t.Errorf("want the %d requests and their answers in the audit file, got %d entries", p.requests, entries)
	}
	log := p.Log()
	if !strings.Contains(log, "[TRACE]") || !strings.Contains(log, "a rotation failed") {
		p.t.Error("want a log at level TRACE with the lines of the plugin")
	}
	p.holdsNoKeys("the log", log)
	for where, text := range map[string]string{"the audit file": string(content), "the log": log} {
		p.holdsNone(where, text)
		for _, leak := range p.personal.In(text) {
			p.t.Errorf("%s: %s", where, leak)
		}
	}
	p.t.Logf("%d requests; searched %d KiB of log and %d KiB of audit", p.requests, len(log)>>10, len(content)>>10)
}
