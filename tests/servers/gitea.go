// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

const giteaModule = "code.gitea.io/gitea"

// Gitea is a running Gitea with its container registry. Only the account that
// pushed an image, and administrators, can pull it.
type Gitea struct {
	*Process
	URL  string // of its API
	Host string // host:port, as in image names

	dir      string
	limit    time.Time // end of waiting; calls of the API stop then
	operator Account   // a site administrator that only this package uses
}

// Account is an account of a Gitea.
type Account struct{ Name, Password string }

// newAccount returns an account with a unique name.
func newAccount(name string) Account {
	return Account{name + "-" + strings.ToLower(rand.Text()[:8]), randomToken()}
}

func (a Account) email() string { return a.Name + "@example.invalid" }

// StartGitea starts a Gitea with plain http.
func StartGitea(t testing.TB) *Gitea {
	t.Helper()
	addr := FreeAddr(t)
	_, port, _ := strings.Cut(addr, ":")
	g := &Gitea{
		URL: "http://" + addr,
		// By name, because crane refuses token servers at private addresses.
		Host:     "localhost:" + port,
		dir:      t.TempDir(),
		limit:    Limit(t),
		operator: Account{"operator", randomToken()},
	}
	if err := os.WriteFile(g.configFile(), []byte(g.config(t, port)), 0o600); err != nil {
		t.Fatal(err)
	}
	g.Process = start(t, "gitea", g.command(t, "web"), func() error {
		if err := dial(addr); err != nil {
			return err
		}
		return g.try(g.operator, http.MethodGet, "/version", http.StatusOK, nil, nil)
	})
	g.createAdmin(t, g.operator)
	return g
}

func (g *Gitea) createAdmin(t testing.TB, a Account) {
	t.Helper()
	create := g.command(t, "admin", "user", "create", "--admin", "--must-change-password=false",
		"--username="+a.Name, "--password="+a.Password, "--email="+a.email())
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("creating an administrator of gitea: %v\n%s", err, out)
	}
}

func (g *Gitea) configFile() string { return filepath.Join(g.dir, "app.ini") }

func (g *Gitea) command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(Bin(t, "gitea"), append(args, "--config="+g.configFile())...)
	cmd.Env = []string{
		"HOME=" + g.dir, "TMPDIR=" + g.dir, "PATH=" + os.Getenv("PATH"), // with git
		"GITEA_I_AM_BEING_UNSAFE_RUNNING_AS_ROOT=true", // Gitea refuses to run as root without it
	}
	return cmd
}

// config returns the configuration of a server that calls no other server and
// hashes fast.
func (g *Gitea) config(t testing.TB, port string) string {
	t.Helper()
	return fmt.Sprintf(`
WORK_PATH = %[1]s

[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = %[2]s
ROOT_URL = http://%[3]s/
STATIC_ROOT_PATH = %[4]s
OFFLINE_MODE = true
DISABLE_SSH = true

[database]
DB_TYPE = sqlite3
PATH = %[1]s/gitea.db
SQLITE_JOURNAL_MODE = WAL
SQLITE_TIMEOUT = 20000

[security]
INSTALL_LOCK = true
SECRET_KEY = %[5]s
INTERNAL_TOKEN = %[6]s
PASSWORD_HASH_ALGO = pbkdf2$1$50

[service]
DISABLE_REGISTRATION = true
DEFAULT_USER_VISIBILITY = private

[packages]
ENABLED = true

[actions]
ENABLED = false

[indexer]
ISSUE_INDEXER_TYPE = db

[log]
MODE = console
LEVEL = Info
`, g.dir, port, g.Host, moduleDir(t, "gitea", giteaModule), randomToken(), randomToken())
}

// try calls the API. An answer with another status than the wanted one is an
// error.
func (g *Gitea) try(as Account, method, path string, status int, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, g.URL+"/api/v1"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if path != "/version" {
		req.SetBasicAuth(as.Name, as.Password)
	}
	resp, err := (&http.Client{Timeout: time.Until(g.limit)}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != status {
		return fmt.Errorf("%s %s: want status %d, got %s: %s", method, path, status, resp.Status, text)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// Call calls the API below /api/v1 as an account, and decodes the answer. It
// fails the test if the status is not the wanted one.
func (g *Gitea) Call(t testing.TB, as Account, method, path string, status int, in, out any) {
	t.Helper()
	if err := g.try(as, method, path, status, in, out); err != nil {
		t.Fatal(err)
	}
}

// Operate is Call as a site administrator.
func (g *Gitea) Operate(t testing.TB, method, path string, status int, in, out any) {
	t.Helper()
	g.Call(t, g.operator, method, path, status, in, out)
}

// AddUser adds an account, whose name it makes unique.
func (g *Gitea) AddUser(t testing.TB, name string) Account {
	t.Helper()
	a := newAccount(name)
	g.Operate(t, http.MethodPost, "/admin/users", http.StatusCreated, map[string]any{
		"username": a.Name, "password": a.Password, "email": a.email(), "must_change_password": false,
	}, nil)
	return a
}

// AddAdmin adds a site administrator.
func (g *Gitea) AddAdmin(t testing.TB, name string) Account {
	t.Helper()
	a := newAccount(name)
	g.createAdmin(t, a)
	return a
}

// AddToken adds an access token to an account and returns it.
func (g *Gitea) AddToken(t testing.TB, a Account, name string, scopes ...string) string {
	t.Helper()
	var token struct {
		SHA1 string `json:"sha1"`
	}
	g.Call(t, a, http.MethodPost, "/users/"+a.Name+"/tokens", http.StatusCreated, map[string]any{"name": name, "scopes": scopes}, &token)
	return token.SHA1
}

// Tokens returns the names of the access tokens that an account has, sorted.
func (g *Gitea) Tokens(t testing.TB, user string) []string {
	t.Helper()
	names := []string{}
	for page := 1; ; page++ {
		var tokens []struct {
			Name string `json:"name"`
		}
		g.Operate(t, http.MethodGet, "/users/"+user+"/tokens?limit=50&page="+strconv.Itoa(page), http.StatusOK, nil, &tokens)
		if len(tokens) == 0 {
			slices.Sort(names)
			return names
		}
		for _, token := range tokens {
			names = append(names, token.Name)
		}
	}
}

// GiteaProxy is a proxy for the API of a Gitea, in which faults can be planted.
// It has two accounts of its own. The registry is reached directly.
type GiteaProxy struct {
	*issuertest.Server
	Admin  Account // the connection's account, a site administrator
	Puller Account // the account that tokens are minted for

	t     testing.TB
	gitea *Gitea
	token string // replaces the admin's password, unless it is empty
}

// Proxy starts a proxy with two new accounts.
func (g *Gitea) Proxy(t testing.TB) *GiteaProxy {
	t.Helper()
	target, err := url.Parse(g.URL)
	if err != nil {
		t.Fatal(err)
	}
	handler := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // Gitea makes its URLs from it
		},
		ErrorLog: log.New(io.Discard, "", 0), // clients give up in these tests
	}
	return &GiteaProxy{
		Server: issuertest.NewServer(t, handler),
		Admin:  g.AddAdmin(t, "minter"),
		Puller: g.AddUser(t, "puller"),
		t:      t,
		gitea:  g,
	}
}

// UseToken makes connections use an access token of Admin in place of the
// password.
func (p *GiteaProxy) UseToken() {
	p.t.Helper()
	p.token = p.gitea.AddToken(p.t, p.Admin, "vault", "write:user")
}

// Connection returns a connection to the proxy, with Admin's credential.
func (p *GiteaProxy) Connection() issuer.Connection {
	secret := p.Admin.Password
	if p.token != "" {
		secret = p.token
	}
	return issuer.Connection{
		URL:        p.URL,
		Registries: []dockerconfig.Key{dockerconfig.Key(p.gitea.Host)},
		Settings:   issuer.Settings{"username": p.Admin.Name},
		Secrets:    issuer.Secrets{"password": dockerconfig.NewSecret(secret)},
	}
}

// Role returns the fields of a role that mints for Puller.
func (p *GiteaProxy) Role() issuer.Settings { return issuer.Settings{"user": p.Puller.Name} }

// MintMatch matches the request that mints for Puller.
func (p *GiteaProxy) MintMatch(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Path == "/api/v1/users/"+p.Puller.Name+"/tokens"
}

// Living returns the names of the access tokens that Puller has, sorted.
func (p *GiteaProxy) Living() []string { return p.gitea.Tokens(p.t, p.Puller.Name) }

// Admins returns the names of the access tokens that Admin has, sorted. The
// password is not among them.
func (p *GiteaProxy) Admins() []string { return p.gitea.Tokens(p.t, p.Admin.Name) }
