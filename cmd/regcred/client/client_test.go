// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/cmd/regcred/internal/vaulttest"
)

func open(t *testing.T, s *vaulttest.Server) *Vault {
	t.Helper()
	v, err := Open(Settings{Address: s.URL}, Auth{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func loggedIn(t *testing.T, s *vaulttest.Server) *Vault {
	t.Helper()
	v := open(t, s)
	if _, err := v.Login(t.Context(), Auth{Method: MethodJWT, Mount: "jwt", Role: "r"}, vaulttest.Marker+"-jwt"); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestLoadFileRefusesWhatOthersCanWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(path, []byte("mount: m\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var s Settings
	if err := LoadFile(path, &s); err != nil || s.Mount != "m" {
		t.Fatalf("want m, got %+v, %v", s, err)
	}
	link := filepath.Join(dir, "link.yaml")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		path string
		mode fs.FileMode
	}{
		"group": {path, 0o660}, "others": {path, 0o602}, "folder": {dir, 0o777},
	} {
		info, err := os.Stat(c.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(c.path, c.mode); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{path, link} {
			if err := LoadFile(name, &s); err == nil || !strings.Contains(err.Error(), "can be written by others") {
				t.Errorf("%s, read as %s: want a refusal, got %v", what, name, err)
			}
		}
		if err := os.Chmod(c.path, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	if err := LoadFile(filepath.Join(dir, "none"), &s); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("want that there is no such file, got %v", err)
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(path, 4711, -1); err != nil {
		t.Fatal(err)
	}
	if err := LoadFile(path, &s); err == nil || !strings.Contains(err.Error(), "belongs to user 4711") {
		t.Errorf("want a refusal of another user's file, got %v", err)
	}
}

// TestFileIsCheckedThatIsRead: whoever can replace a link must not win by being fast.
func TestFileIsCheckedThatIsRead(t *testing.T) {
	dir := t.TempDir()
	good, bad, link := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml"), filepath.Join(dir, "link.yaml")
	for path, mode := range map[string]fs.FileMode{good: 0o600, bad: 0o666} {
		if err := os.WriteFile(path, []byte("mount: "+filepath.Base(path)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			next := filepath.Join(dir, "next")
			_ = os.Symlink([]string{bad, good}[i%2], next)
			_ = os.Rename(next, link)
		}
	}()
	defer func() { close(stop); <-stopped }()
	read := 0
	for range 3000 {
		var s Settings
		if err := LoadFile(link, &s); err != nil {
			continue
		}
		if read++; s.Mount != "good.yaml" {
			t.Fatal("a file that others can write was read")
		}
	}
	if read == 0 {
		t.Error("the good file was never read")
	}
}

func TestLoadFileRefusesUnknownAndRepeatedFields(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	for _, text := range []string{"vault: x\n", "mount: a\nmount: b\n", "mount: [\n", "- a\n", "Mount: a\n", "mount: a\nMount: b\n", "mount: a\n---\nmount: b\n", "mount: a\n---\nmount: [\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := LoadFile(path, &Settings{}); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: want an error of one line, got %v", text, err)
		}
	}
	for _, text := range []string{"---\nmount: a\n---\n", "\ufeffmount: a\r\n", `{"mount": "a"}`} {
		var s Settings
		if err := Decode(path, []byte(text), &s); err != nil || s.Mount != "a" {
			t.Errorf("%q: got %+v, %v", text, s, err)
		}
	}
}

func TestRoleNamesAreThoseOfTheEngine(t *testing.T) {
	for _, name := range []string{"a", "my_app", "team-a.web", strings.Repeat("x", 200)} {
		if err := CheckRole(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", "a..b", "a/b", "../roles/x", "a?list=true", "a%2fb", "-a", "a-", "a b", "a\nb", strings.Repeat("x", 201)} {
		if CheckRole(name) == nil {
			t.Errorf("%q must be refused", name)
		}
	}
}

func TestCacheFor(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for what, c := range map[string]struct {
		secret PullSecret
		want   time.Duration
	}{
		"static":                    {PullSecret{}, 5 * time.Minute},
		"grace is shorter":          {PullSecret{Rotates: true, GracePeriod: time.Minute}, 30 * time.Second},
		"grace is longer":           {PullSecret{Rotates: true, GracePeriod: time.Hour}, 5 * time.Minute},
		"no grace":                  {PullSecret{Rotates: true}, 0},
		"expires sooner":            {PullSecret{ExpiresAt: now.Add(90*time.Second + 700*time.Millisecond)}, 90 * time.Second},
		"expires later":             {PullSecret{ExpiresAt: now.Add(time.Hour)}, 5 * time.Minute},
		"has expired":               {PullSecret{ExpiresAt: now.Add(-time.Hour)}, 0},
		"expires before grace ends": {PullSecret{Rotates: true, GracePeriod: time.Minute, ExpiresAt: now.Add(time.Second)}, time.Second},
	} {
		if got := c.secret.CacheFor(5*time.Minute, now); got != c.want {
			t.Errorf("%s: want %s, got %s", what, c.want, got)
		}
	}
}

func TestReadTakesOnlyWhatTheEngineDocuments(t *testing.T) {
	s := vaulttest.New(t)
	v := loggedIn(t, s)
	credential := [][3]string{{"ghcr.io", "robot", vaulttest.Marker}}
	s.PullSecret("good", credential, `"grace_period":60`, `"rotation_period":600`, `"ttl":10`, `"expires_at":"2199-01-31T00:00:00Z"`)
	p, err := v.Read(t.Context(), "good")
	if err != nil || !p.Rotates || p.GracePeriod != time.Minute || p.ExpiresAt.Year() != 2199 || len(p.Docker.Keys()) != 1 {
		t.Errorf("got %+v, %v", p, err)
	}
	s.PullSecret("older-engine", credential, `"rotation_period":600`, `"ttl":10`)
	if p, err := v.Read(t.Context(), "older-engine"); err != nil || p.CacheFor(time.Hour, time.Now()) != 0 {
		t.Errorf("without a grace period nothing may be kept; got %+v, %v", p, err)
	}
	for role, body := range map[string]string{
		"kv":        `{"data":{"data":{"password":"` + vaulttest.Marker + `"}}}`,
		"no-data":   `{"data":{}}`,
		"no-user":   `{"data":{".dockerconfigjson":"{\"auths\":{\"ghcr.io\":{\"password\":\"` + vaulttest.Marker + `\"}}}"}}`,
		"no-pass":   `{"data":{".dockerconfigjson":"{\"auths\":{\"ghcr.io\":{\"username\":\"` + vaulttest.Marker + `\"}}}"}}`,
		"no-auths":  `{"data":{".dockerconfigjson":"{}"}}`,
		"no-object": `{"data":{".dockerconfigjson":{"auths":"` + vaulttest.Marker + `"}}}`,
		"html":      `<html>` + vaulttest.Marker,
		"cut":       `{"data":{".dockerconfigjson":"` + vaulttest.Marker,
		"array":     `["` + vaulttest.Marker + `"]`,
	} {
		s.Answer("regcred/creds/"+role, body)
		checkRefused(t, v, role, "answer")
	}
	for i, field := range []string{`"grace_period":"60"`, `"grace_period":-1`, `"grace_period":1.5`, `"expires_at":"` + vaulttest.Marker + `"`, `"expires_at":5`} {
		role := fmt.Sprint("field", i)
		s.PullSecret(role, credential, `"rotation_period":600`, field)
		checkRefused(t, v, role, "answered without a pull secret")
	}
	checkRefused(t, v, "none", `there is no role "none" at regcred/`)
	checkRefused(t, v, "../../sys/x", "is not the name of a role")
}

func checkRefused(t *testing.T, v *Vault, role, want string) {
	t.Helper()
	_, err := v.Read(t.Context(), role)
	if err == nil || !strings.Contains(Line(err), want) {
		t.Errorf("%s: want an error with %q, got %v", role, want, err)
		return
	}
	checkLine(t, role, Line(err))
}

// checkLine checks that a text can go into the log of a kubelet.
func checkLine(t *testing.T, what, text string) {
	t.Helper()
	if text == "" || strings.ContainsAny(text, "\n\r\x1b") || strings.Contains(text, vaulttest.Marker) {
		t.Errorf("%s: want one line without a secret, got %q", what, text)
	}
}

func TestLeasedRoleIsRefusedAndItsLeaseRevoked(t *testing.T) {
	s := vaulttest.New(t)
	v := loggedIn(t, s)
	s.Answer("regcred/creds/ci", `{"lease_id":"regcred/creds/ci/abc","lease_duration":900,"data":{".dockerconfigjson":"{\"auths\":{\"ghcr.io\":{\"username\":\"u\",\"password\":\"`+vaulttest.Marker+`\"}}}"}}`)
	checkRefused(t, v, "ci", "the role is leased")
	last := s.Requests()[len(s.Requests())-1]
	if want := `PUT sys/leases/revoke {"lease_id":"regcred/creds/ci/abc"}`; last != want {
		t.Errorf("want the last request %s, got %s", want, last)
	}
}

// Each answer that a server or a proxy may give is one line without a secret, also
// where it repeats what it was sent.
func TestFailuresAreOneLineWithoutASecret(t *testing.T) {
	s := vaulttest.New(t)
	t.Setenv("VAULT_MAX_RETRIES", "0")
	auth := Auth{Method: MethodJWT, Mount: "jwt", Role: "r"}
	jwt := vaulttest.Marker + ".a\"b.c"
	for _, status := range []int{400, 403, 404, 429, 500, 502, 503} {
		v := loggedIn(t, s)
		s.Fail(vaulttest.Echo(status))
		_, err := v.Read(t.Context(), "app")
		checkFailed(t, fmt.Sprint("read, ", status), err)
		_, err = open(t, s).Login(t.Context(), auth, jwt)
		checkFailed(t, fmt.Sprint("login, ", status), err)
		s.Fail(nil)
	}
	for what, fault := range map[string]http.HandlerFunc{
		"closed":   func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"garbage":  func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, vaulttest.Marker) },
		"empty":    func(http.ResponseWriter, *http.Request) {},
		"no token": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"auth":{}}`) },
		"redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		},
	} {
		s.Fail(fault)
		_, err := open(t, s).Login(t.Context(), auth, jwt)
		checkFailed(t, what, err)
	}
	s.Fail(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"errors":["bad signature `+vaulttest.Marker+`-signature"]}`, http.StatusBadRequest)
	})
	_, err := open(t, s).Login(t.Context(), auth, "header.payload."+vaulttest.Marker+"-signature")
	checkFailed(t, "part of the token", err)
	for pad := range 40 { // a long message is cut, also in the middle of a token
		s.Fail(nil)
		v := loggedIn(t, s)
		s.Fail(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"errors":["`+strings.Repeat("x", maxSaid-pad)+vaulttest.Token+`"]}`, http.StatusForbidden)
		})
		_, err := v.Read(t.Context(), "app")
		checkFailed(t, "a long message", err)
	}
	s.Fail(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = open(t, s).Login(ctx, auth, jwt)
	checkFailed(t, "hangs", err)
	s.Close()
	_, err = open(t, s).Login(t.Context(), auth, jwt)
	checkFailed(t, "down", err)
	if !strings.Contains(Line(err), "connection refused") {
		t.Errorf("want the reason, got %s", Line(err))
	}
}

// TestRateLimitIsSaidAtOnce: Vault may ask for a longer wait than there is time for, as
// with a block_interval of its quota.
func TestRateLimitIsSaidAtOnce(t *testing.T) {
	s := vaulttest.New(t)
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		s.Fail(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "60")
			http.Error(w, `{"errors":["request path \"auth/jwt/login\": rate limit quota exceeded"]}`, status)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // less than 60
		_, err := open(t, s).Login(ctx, Auth{Method: MethodJWT, Mount: "jwt", Role: "r"}, vaulttest.Marker)
		checkFailed(t, fmt.Sprint(status), err)
		if ctx.Err() != nil || !strings.Contains(Line(err), fmt.Sprintf("answered with status %d: request path", status)) {
			t.Errorf("%d: want the reason, and no wait, got %v, %s", status, ctx.Err(), Line(err))
		}
		cancel()
	}
	// What there is time for is waited for.
	tries := 0
	s.Fail(func(w http.ResponseWriter, _ *http.Request) {
		if tries++; tries == 1 {
			w.Header().Set("Retry-After", "1")
			http.Error(w, `{"errors":["rate limit quota exceeded"]}`, http.StatusTooManyRequests)
			return
		}
		fmt.Fprint(w, `{"auth":{"client_token":"t"}}`)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := open(t, s).Login(ctx, Auth{Method: MethodJWT, Mount: "jwt", Role: "r"}, vaulttest.Marker); err != nil || tries != 2 {
		t.Errorf("want a second try, got %d, %v", tries, err)
	}
}

// TestTokensGoToNoOtherHost: a proxy with a login page of its own redirects whatever it
// is sent. A standby of Vault answers with status 307 and the active node.
func TestTokensGoToNoOtherHost(t *testing.T) {
	s := vaulttest.New(t)
	var sent []string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sent = append(sent, string(body))
		fmt.Fprint(w, `{"auth":{"client_token":"t"}}`)
	}))
	defer other.Close()
	elsewhere := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
	for _, c := range []struct {
		status int
		to     string
		follow bool
	}{
		{http.StatusMovedPermanently, elsewhere, false},
		{http.StatusFound, elsewhere, false},
		{http.StatusFound, other.URL, true}, // another port, such as that of https
		{http.StatusTemporaryRedirect, elsewhere, true},
	} {
		sent = nil
		s.Fail(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, c.to+r.URL.Path, c.status) })
		_, err := open(t, s).Login(t.Context(), Auth{Method: MethodJWT, Mount: "jwt", Role: "r"}, vaulttest.Marker)
		if followed := sent != nil; followed != c.follow || c.follow != (err == nil) {
			t.Errorf("%d to %s: want it followed: %v, got %q, %v", c.status, c.to, c.follow, sent, err)
		}
		if !c.follow {
			checkFailed(t, fmt.Sprint(c.status), err)
			if !strings.Contains(Line(err), "it redirects to another host") {
				t.Errorf("got %s", Line(err))
			}
		}
	}
}

func checkFailed(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || Line(err) == "an internal error" {
		t.Errorf("%s: want a failure that says why, got %v", what, err)
		return
	}
	checkLine(t, what, Line(err))
}

func TestFilesAndFlagsAndEnvironment(t *testing.T) {
	vaulttest.CleanEnv(t)
	address := func(s Settings) string {
		v, err := Open(s, Auth{})
		if err != nil {
			t.Fatal(err)
		}
		return v.Address()
	}
	s := Settings{Address: "https://file:8200"}
	s.ApplyEnvironment()
	if got := address(s); got != "https://file:8200" {
		t.Errorf("file: got %s", got)
	}
	t.Setenv("VAULT_ADDR", "https://variable:8200")
	s.ApplyEnvironment()
	if got := address(s); got != "https://variable:8200" {
		t.Errorf("variable: got %s", got)
	}
	t.Setenv("VAULT_AGENT_ADDR", "unix:///run/agent.sock")
	if got := address(s); got != "unix:///run/agent.sock" {
		t.Errorf("agent: got %s", got)
	}
	s.SetAddress("https://flag:8200")
	if got := address(s); got != "https://flag:8200" {
		t.Errorf("flag: got %s", got)
	}
	for _, bad := range []string{"vault.example.com:8200", "ftp://x", "https://", "https://u:" + vaulttest.Marker + "@x", "https://%zz" + vaulttest.Marker} {
		s.SetAddress(bad)
		_, err := Open(s, Auth{})
		checkFailed(t, bad, err)
	}
}

func TestCLITokenIsUsed(t *testing.T) {
	s := vaulttest.New(t)
	s.PullSecret("app", [][3]string{{"ghcr.io", "u", "p"}})
	v := open(t, s)
	if err := v.UseCLIToken(); err != nil || v.HasToken() {
		t.Fatalf("want no token, got %v", err)
	}
	_, err := v.Read(t.Context(), "app")
	if err == nil || !strings.Contains(Line(err), `run "vault login"`) {
		t.Errorf("want the advice to log in, got %v", err)
	}
	if err := os.WriteFile(filepath.Join(os.Getenv("HOME"), ".vault-token"), []byte(vaulttest.Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v = open(t, s)
	if err := v.UseCLIToken(); err != nil || !v.HasToken() {
		t.Fatalf("want the token of the file, got %v", err)
	}
	if _, err := v.Read(t.Context(), "app"); err != nil {
		t.Error(err)
	}
	for _, token := range []string{"\ufeff" + vaulttest.Token, vaulttest.Token + "\n" + vaulttest.Token, "\x1b[0m" + vaulttest.Token} {
		if err := os.WriteFile(filepath.Join(os.Getenv("HOME"), ".vault-token"), []byte(token+"\r\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		v := open(t, s)
		err := v.UseCLIToken()
		if err == nil {
			_, err = v.Read(t.Context(), "app")
		}
		checkFailed(t, "a token that is none", err)
		if !strings.Contains(Line(err), "has characters that no token has") {
			t.Errorf("got %s", Line(err))
		}
	}
	// What people set for themselves must not wrap the answer.
	t.Setenv("VAULT_WRAP_TTL", "60s")
	t.Setenv("VAULT_TOKEN", vaulttest.Token)
	v = open(t, s)
	if err := v.UseCLIToken(); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Read(t.Context(), "app"); err != nil {
		t.Error(err)
	}
}

func TestLoginSendsWhatTheMethodNeeds(t *testing.T) {
	s := vaulttest.New(t)
	t.Setenv("VAULT_TOKEN", "someone-elses")
	for _, c := range []struct {
		auth Auth
		want string
	}{
		{Auth{Method: "jwt", Role: "r"}, `PUT auth/jwt/login {"jwt":"j","role":"r"}`},
		{Auth{Method: "kubernetes", Role: "r"}, `PUT auth/kubernetes/login {"jwt":"j","role":"r"}`},
	} {
		if err := c.auth.Check("auth"); err != nil {
			t.Fatal(err)
		}
		v := open(t, s)
		if v.HasToken() {
			t.Error("VAULT_TOKEN must not be used where there is a login")
		}
		token, err := v.Login(t.Context(), c.auth, "j")
		if err != nil || !token.Batch || token.Lifetime != 5*time.Minute || !slices.Equal(token.Policies, []string{"default", "pull"}) {
			t.Errorf("got %+v, %v", token, err)
		}
		if got := s.Requests()[len(s.Requests())-1]; got != c.want {
			t.Errorf("want %s, got %s", c.want, got)
		}
	}
	for what, a := range map[string]Auth{
		"no role":             {Method: "jwt"},
		"no method":           {Role: "r"},
		"cert without a file": {Method: "cert"},
		"jwt with a file":     {Method: "jwt", Role: "r", CertFile: "x"},
		"other mount":         {Method: "jwt", Role: "r", Mount: "../x"},
	} {
		if a.Check("auth") == nil {
			t.Errorf("%s must be refused", what)
		}
	}
}
