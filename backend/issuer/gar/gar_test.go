// SPDX-License-Identifier: MPL-2.0

package gar_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/gar"
	"vault-plugin-secrets-regcred/backend/issuer/gar/gartest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

func subject(s *gartest.Server, c issuer.Connection, role issuer.Settings) issuertest.Subject {
	return issuertest.Subject{
		Type:       gar.Type(),
		Connection: c,
		Role:       role,
		Server:     s.Server,
		Pulls:      func(c issuer.Credential) bool { return s.Pulls(c, gartest.Repository) },
		Mints:      s.MintMatch,
		BadSecrets: issuer.Secrets{"service_account_key": dockerconfig.NewSecret(gartest.Key("nobody@acme.iam.gserviceaccount.com"))},
	}
}

func TestConformsWithAKey(t *testing.T) {
	issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
		s := gartest.New(t)
		return subject(s, s.Connection(), s.Role())
	})
}

func TestConformsWithIdentityTokens(t *testing.T) {
	issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
		s := gartest.New(t)
		return subject(s, s.Trusting(&issuertest.Vault{}), s.Role())
	})
}

// federated lets GOOGLE_APPLICATION_CREDENTIALS name a configuration of workload
// identity federation, as for a pod that Vault runs in.
func federated(t *testing.T, s *gartest.Server) (tokenFile string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", write("federation.json", s.Federation(write)))
	return filepath.Join(dir, "token")
}

// onMachine lets the metadata server be that of s.
func onMachine(t *testing.T, s *gartest.Server, account string) {
	t.Helper()
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	t.Setenv("GCE_METADATA_HOST", s.Host())
	s.SetMachine(account)
}

func open(t *testing.T, s *gartest.Server, c issuer.Connection, role issuer.Settings) (*issuer.Client, issuer.Target) {
	t.Helper()
	return subject(s, c, role).Open(t)
}

func mint(t *testing.T, client *issuer.Client, target issuer.Target, lifetime time.Duration) (issuer.Credential, error) {
	t.Helper()
	return client.Mint(t.Context(), issuer.Request{Name: issuer.NewName("app"), For: target.Settings, ExpiresAt: time.Now().Add(lifetime)})
}

func TestMintsWithTheTokenFileOfVaultsPod(t *testing.T) {
	s := gartest.New(t)
	tokenFile := federated(t, s)
	client, target := open(t, s, s.Keyless(), s.Role())
	status, err := client.Check(t.Context())
	if want := "the identity that GOOGLE_APPLICATION_CREDENTIALS names on Vault's machine"; err != nil || status.Identity != want {
		t.Errorf("Check: want identity %q, got %+v, %v", want, status, err)
	}
	minted, err := mint(t, client, target, time.Hour)
	if err != nil || !s.Pulls(minted, gartest.Repository) {
		t.Fatalf("want a credential that pulls, got %v", err)
	}
	// The kubelet replaces the token in the file. One that Google refuses shows what
	// Google says of it, and not the token.
	if err := os.WriteFile(tokenFile, []byte("token-of-another-cluster"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = mint(t, client, target, time.Hour)
	wantError(t, err, "answered 400 Bad Request: invalid_grant: The ID Token issuer is not trusted by the workload identity pool provider.", "token-of-another-cluster")
	if err := os.Remove(tokenFile); err != nil {
		t.Fatal(err)
	}
	_, err = mint(t, client, target, time.Hour)
	wantError(t, err, "the file that GOOGLE_APPLICATION_CREDENTIALS names on Vault's machine gives no token", "")
	if !issuer.Definite(err) {
		t.Errorf("want a definite error, got %v", err)
	}
}

func TestMintsWithIdentityTokens(t *testing.T) {
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(t.TempDir(), "none")) // not looked at
	s, vault := gartest.New(t), &issuertest.Vault{}
	client, target := open(t, s, s.Trusting(vault), s.Role())
	status, err := client.Check(t.Context())
	if want := "this mount of Vault, by " + gartest.Audience; err != nil || status.Identity != want {
		t.Errorf("Check: want identity %q, got %+v, %v", want, status, err)
	}
	minted, err := mint(t, client, target, time.Hour)
	if err != nil || !s.Pulls(minted, gartest.Repository) {
		t.Fatalf("want a credential that pulls, got %v", err)
	}

	c := s.Trusting(vault)
	c.IdentityToken = vault.Source("https://of-another-provider")
	client, target = open(t, s, c, s.Role())
	_, err = mint(t, client, target, time.Hour)
	wantError(t, err, "answered 400 Bad Request: invalid_grant: The ID Token issuer is not trusted by the workload identity pool provider.", "")
	for _, token := range vault.Tokens() {
		wantError(t, err, "", token)
	}

	// Google lets the mount act as Puller alone.
	c = s.Trusting(vault)
	c.Settings["service_account"] = gartest.Pusher
	delete(c.Settings, "token_lifetime")
	client, target = open(t, s, c, s.Role())
	_, err = mint(t, client, target, time.Hour)
	wantError(t, err, "answered 403 Forbidden: PERMISSION_DENIED: Permission 'iam.serviceAccounts.getAccessToken' denied", "")
}

func TestMintsWithTheIdentityOfVaultsMachine(t *testing.T) {
	s := gartest.New(t)
	onMachine(t, s, "vault@acme.iam.gserviceaccount.com")
	s.Allow("vault@acme.iam.gserviceaccount.com", gartest.Puller)
	client, target := open(t, s, s.Keyless(), s.Role())
	status, err := client.Check(t.Context())
	if err != nil || status.Identity != "vault@acme.iam.gserviceaccount.com" {
		t.Errorf("Check: want the identity of the machine, got %+v, %v", status, err)
	}
	if minted, err := mint(t, client, target, time.Hour); err != nil || !s.Pulls(minted, gartest.Repository) {
		t.Errorf("want a credential that pulls, got %v", err)
	}
	s.SetMachine("")
	_, err = mint(t, client, target, time.Hour)
	wantError(t, err, "no Google credentials: write service_account_key to the connection, or give them to the machine or pod that Vault runs on (GOOGLE_APPLICATION_CREDENTIALS names a file there, or the metadata server answers)", "")
}

// wantError fails the test unless an error says something, and does not repeat a secret.
func wantError(t *testing.T, err error, part, secret string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("want an error with %q, got %v", part, err)
	}
	if secret != "" && strings.Contains(err.Error(), secret) {
		t.Errorf("the error repeats a secret: %v", err)
	}
}

func TestAccessLimitsTheScope(t *testing.T) {
	s := gartest.New(t)
	c := s.Connection()
	c.Settings = issuer.Settings{}
	for access, pushes := range map[string]bool{"": false, "pull": false, "push": true} {
		client, target := open(t, s, c, issuer.Settings{"service_account": gartest.Pusher, "access": access})
		minted, err := mint(t, client, target, time.Hour)
		if err != nil || !s.Pulls(minted, gartest.Repository) || s.Pushes(minted, gartest.Repository) != pushes {
			t.Errorf("access %q: want a credential that pulls, and pushes: %v, got %v, pushes: %v", access, pushes, err, s.Pushes(minted, gartest.Repository))
		}
		if s.Pulls(minted, "acme/secret/app") {
			t.Errorf("access %q: want no access to what the service account may not read", access)
		}
	}
}

func TestLifetimeIsWhatIsNeeded(t *testing.T) {
	for _, tc := range []struct {
		setting      string
		needed, want time.Duration
	}{
		{"", time.Minute, 10 * time.Minute}, // no less is known to be accepted
		{"", 20*time.Minute + time.Millisecond, 20*time.Minute + time.Second},
		{"", time.Hour, time.Hour},
		{"", 5 * time.Hour, time.Hour}, // token_lifetime was higher when the role was written
		{"12h", 5 * time.Hour, 5 * time.Hour},
		{"43200", 20 * time.Hour, 12 * time.Hour},
	} {
		s := gartest.New(t)
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		c := s.Connection()
		c.Now = func() time.Time { return now }
		c.Settings["token_lifetime"] = tc.setting
		var asked struct{ Lifetime string }
		s.InjectFault(-1, gartest.MintMatch, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			_ = json.NewDecoder(r.Body).Decode(&asked)
			_, _ = w.Write([]byte(`{"accessToken":"x","expireTime":"2026-03-01T13:00:00Z"}`))
		})
		client, target := open(t, s, c, s.Role())
		minted, err := client.Mint(t.Context(), issuer.Request{Name: issuer.NewName("x"), For: target.Settings, ExpiresAt: now.Add(tc.needed)})
		if got, parsed := time.ParseDuration(asked.Lifetime); parsed != nil || got != tc.want || err != nil {
			t.Errorf("token_lifetime %q, needed %s: want a request for %s, got %q, %v", tc.setting, tc.needed, tc.want, asked.Lifetime, err)
		}
		if want := now.Add(time.Hour); !minted.ExpiresAt.Equal(want) {
			t.Errorf("want the expiry that Google says, %s, got %s", want, minted.ExpiresAt)
		}
	}
}

func TestTargets(t *testing.T) {
	const other = "other@acme.iam.gserviceaccount.com"
	for name, tc := range map[string]struct {
		connection, role issuer.Settings
		want             issuer.Target
		wrong            string
	}{
		"of the connection": {
			connection: issuer.Settings{"service_account": gartest.Puller},
			want:       issuer.Target{Settings: issuer.Settings{"access": "pull"}, Names: []string{gartest.Puller}, MaxLifetime: time.Hour},
		},
		"of the connection, named again": {
			connection: issuer.Settings{"service_account": gartest.Puller, "token_lifetime": "12h"},
			role:       issuer.Settings{"service_account": gartest.Puller, "access": "push"},
			want:       issuer.Target{Settings: issuer.Settings{"access": "push"}, Names: []string{gartest.Puller}, MaxLifetime: 12 * time.Hour},
		},
		"of the role": {
			role: issuer.Settings{"service_account": other},
			want: issuer.Target{Settings: issuer.Settings{"access": "pull", "service_account": other}, Names: []string{other}, MaxLifetime: time.Hour},
		},
		"of both": {
			connection: issuer.Settings{"service_account": gartest.Puller},
			role:       issuer.Settings{"service_account": other},
			wrong:      "service_account: must be left out, because the connection names the service account of all its roles, puller@acme.iam.gserviceaccount.com",
		},
		"of none": {wrong: "service_account: must be the e-mail address of the service account that the credential acts as, such as puller@acme.iam.gserviceaccount.com, because the connection names none"},
		// Authority compares names letter by letter.
		"a number":      {role: issuer.Settings{"service_account": "100000000000000000000"}, wrong: wrongAccount},
		"capitals":      {role: issuer.Settings{"service_account": "Other@acme.iam.gserviceaccount.com"}, wrong: wrongAccount},
		"another path":  {role: issuer.Settings{"service_account": "x@y.gserviceaccount.com/../" + other}, wrong: wrongAccount},
		"a person":      {role: issuer.Settings{"service_account": "someone@example.com"}, wrong: wrongAccount},
		"another right": {role: issuer.Settings{"service_account": other, "access": "admin"}, wrong: "access: must be pull or push (push includes pull)"},
	} {
		t.Run(name, func(t *testing.T) {
			s := gartest.New(t)
			c := s.Connection()
			c.Settings = tc.connection
			got, err := gar.Type().Target(c, tc.role)
			if tc.wrong != "" {
				if err == nil || err.Error() != tc.wrong {
					t.Errorf("want the error %q, got %v", tc.wrong, err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
				t.Errorf("target (-want +got):\n%s%v", diff, err)
			}
		})
	}
}

const wrongAccount = "service_account: must be the e-mail address of a service account, such as puller@acme.iam.gserviceaccount.com, in lower case"

func TestConnectionFields(t *testing.T) {
	key := func(change func(map[string]any)) issuer.Secrets {
		var fields map[string]any
		if err := json.Unmarshal([]byte(gartest.Key(gartest.Root)), &fields); err != nil {
			t.Fatal(err)
		}
		change(fields)
		text, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		return issuer.Secrets{"service_account_key": dockerconfig.NewSecret(string(text))}
	}
	text := func(s string) issuer.Secrets { return issuer.Secrets{"service_account_key": dockerconfig.NewSecret(s)} }
	const lifetime = "token_lifetime: must be from 1h to 12h, such as 12h; more than 1h needs the organisation policy constraint iam.allowServiceAccountCredentialLifetimeExtension"
	const provider = "identity_token_audience: must be the provider of workload identity federation, such as https://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/vault/providers/vault, with the number of the project"
	audience := func(text string) issuer.Settings { return issuer.Settings{"identity_token_audience": text} }
	for name, tc := range map[string]struct {
		url, registry string
		settings      issuer.Settings
		secrets       issuer.Secrets
		wrong         string
	}{
		"regional host":      {registry: "europe-west1-docker.pkg.dev"},
		"multi-region":       {registry: "europe-docker.pkg.dev/acme/images"},
		"Container Registry": {registry: "eu.gcr.io"},
		"own name with url":  {registry: "images.example.com", url: "https://google.example.com", secrets: text(gartest.Key(gartest.Root))},
		"identity":           {registry: "gcr.io", settings: audience("https:" + gartest.Audience)},
		"identity as Google": {registry: "gcr.io", settings: audience(gartest.Audience)},
		"two ways":           {registry: "gcr.io", settings: audience(gartest.Audience), secrets: text(gartest.Key(gartest.Root)), wrong: "identity_token_audience: must be left out with service_account_key, because a connection proves who it is in one way; to change it to identity tokens, write service_account_key= (empty) in the same request"},
		"identity sent away": {registry: "gcr.io", url: "https://google.example.com", settings: audience(gartest.Audience), wrong: "url: must be left out with identity_token_audience, because identity tokens are sent to Google alone"},
		"other audience":     {registry: "gcr.io", settings: audience("vault"), wrong: provider},
		"project by name":    {registry: "gcr.io", settings: audience(strings.Replace(gartest.Audience, "1234", "acme", 1)), wrong: provider},
		// Otherwise a connection could have the tokens of Vault's own identity sent to a
		// server of its writer.
		"url without a key":  {registry: "gcr.io", url: "https://google.example.com", wrong: "url: must be left out without service_account_key, because tokens of Vault's own identity are sent to Google alone"},
		"own name":           {registry: "images.example.com", wrong: `registry: must be a host of Artifact Registry, such as europe-docker.pkg.dev or gcr.io, not "images.example.com"; for a host name of your own in front of it, also set url`},
		"another repository": {registry: "europe-npm.pkg.dev", wrong: `registry: must be a host of Artifact Registry, such as europe-docker.pkg.dev or gcr.io, not "europe-npm.pkg.dev"; for a host name of your own in front of it, also set url`},
		"account":            {registry: "gcr.io", settings: issuer.Settings{"service_account": "all"}, wrong: wrongAccount},
		"lifetime":           {registry: "gcr.io", settings: issuer.Settings{"token_lifetime": "13h"}, wrong: lifetime},
		"short lifetime":     {registry: "gcr.io", settings: issuer.Settings{"token_lifetime": "5m"}, wrong: lifetime},
		"odd lifetime":       {registry: "gcr.io", settings: issuer.Settings{"token_lifetime": "a day"}, wrong: lifetime},
		"key":                {registry: "gcr.io", secrets: text(gartest.Key(gartest.Root))},
		"no JSON":            {registry: "gcr.io", secrets: text("key.json"), wrong: "service_account_key: must be the key of a Google service account, as JSON (in a shell: service_account_key=@key.json)"},
		"federation":         {registry: "gcr.io", secrets: key(func(k map[string]any) { k["type"] = "external_account" }), wrong: "service_account_key: must be the key of a service account; a configuration of workload identity federation names files and addresses, so it is taken only from Vault's own machine: let GOOGLE_APPLICATION_CREDENTIALS name it there, and leave out service_account_key"},
		"a person's":         {registry: "gcr.io", secrets: key(func(k map[string]any) { k["type"] = "authorized_user" }), wrong: "service_account_key: must be the key of a service account, with type service_account in it"},
		"another cloud":      {registry: "gcr.io", secrets: key(func(k map[string]any) { k["universe_domain"] = "example.com" }), wrong: "service_account_key: must be a key of Google Cloud itself: other clouds (universe_domain) are not supported"},
		"no e-mail address":  {registry: "gcr.io", secrets: key(func(k map[string]any) { delete(k, "client_email") }), wrong: "service_account_key: has no client_email of a service account"},
		"no private key":     {registry: "gcr.io", secrets: key(func(k map[string]any) { k["private_key"] = "PRIVATE" }), wrong: "service_account_key: has no private_key that can be read; store the key as Google made it"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := issuer.Open(gar.Type(), issuer.Connection{
				URL: tc.url, Registries: []dockerconfig.Key{dockerconfig.Key(tc.registry)},
				Settings: tc.settings, Secrets: tc.secrets, HTTP: issuer.NewHTTP(nil), Now: time.Now,
			})
			if got := errorText(err); got != tc.wrong {
				t.Errorf("want the error %q, got %q", tc.wrong, got)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A key of somebody who may write connections must not lead the engine anywhere.
func TestTokenURIOfAKeyIsNotCalled(t *testing.T) {
	s, trap := gartest.New(t), gartest.New(t)
	c := s.Connection()
	c.Secrets["service_account_key"] = dockerconfig.NewSecret(strings.Replace(c.Secrets["service_account_key"].Reveal(), "https://oauth2.googleapis.com/token", trap.URL+"/token", 1))
	client, target := open(t, s, c, s.Role())
	if _, err := mint(t, client, target, time.Hour); err != nil {
		t.Errorf("Mint: %v", err)
	}
	if calls := trap.Calls(); len(calls) != 0 {
		t.Errorf("want no call of token_uri, got %q", calls)
	}
}

// No field of a connection names a file: only the environment of Vault does.
func TestConnectionCannotNameAFile(t *testing.T) {
	for name := range gar.Type().ConnectionFields {
		if strings.Contains(name, "file") || strings.Contains(name, "path") {
			t.Errorf("the field %q of connections names a file", name)
		}
	}
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	s := gartest.New(t)
	s.DisableKey(true)
	client, _ := open(t, s, s.Connection(), s.Role())
	_, err := client.Check(t.Context())
	wantError(t, err, "answered 400 Bad Request: invalid_grant: Invalid JWT Signature.", "")
	s.DisableKey(false)

	c := s.Connection()
	c.Settings["service_account"] = "others@acme.iam.gserviceaccount.com"
	client, _ = open(t, s, c, s.Role())
	_, err = client.Check(t.Context())
	wantError(t, err, "answered 403 Forbidden: PERMISSION_DENIED: Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist). (the root credential needs the role roles/iam.serviceAccountTokenCreator on the service account others@acme.iam.gserviceaccount.com)", "")

	c.Settings["service_account"] = gartest.Pusher // not in the organisation policy
	client, target := open(t, s, c, s.Role())
	_, err = mint(t, client, target, 5*time.Hour)
	wantError(t, err, "token_lifetime above 1h needs the constraint iam.allowServiceAccountCredentialLifetimeExtension to list "+gartest.Pusher, "")
}

// A server that repeats what it was sent must not bring a token into an error.
func TestErrorsRepeatNoTokenThatWasObtained(t *testing.T) {
	s := gartest.New(t)
	client, target := open(t, s, s.Connection(), s.Role())
	var sent string
	s.InjectFault(-1, gartest.MintMatch, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		sent = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"error":{"code":403,"message":"no: ` + sent + `","status":"PERMISSION_DENIED"}}`))
	})
	_, err := mint(t, client, target, time.Hour)
	wantError(t, err, "PERMISSION_DENIED: [redacted]", sent)
	s.ClearFaults()
	s.InjectFault(-1, func(r *http.Request) bool { return r.URL.Path == "/token" }, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		sent = r.PostFormValue("assertion")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"invalid_grant","error_description":"no: ` + sent + `"}`))
	})
	_, err = mint(t, client, target, time.Hour)
	wantError(t, err, "invalid_grant: [redacted]", sent)
}

func TestOnlyGooglesOwnRefusalCounts(t *testing.T) {
	s := gartest.New(t)
	client, target := open(t, s, s.Connection(), s.Role())
	for body, refused := range map[string]bool{
		`{"error":{"code":401,"message":"Request had invalid authentication credentials.","status":"UNAUTHENTICATED"}}`: true,
		`{"error":"unauthorized"}`:       false,
		`<html>401</html>`:               false,
		`{"message":"no Route matched"}`: false,
	} {
		s.InjectFault(-1, gartest.MintMatch, issuertest.Status(http.StatusUnauthorized, body))
		if _, err := mint(t, client, target, time.Hour); issuer.IsRefused(err) != refused {
			t.Errorf("%s: want a refusal of the root credential: %v, got %v", body, refused, err)
		}
		s.ClearFaults()
	}
}

func TestAnswersWithoutAnEndAreRefused(t *testing.T) {
	s := gartest.New(t)
	client, target := open(t, s, s.Connection(), s.Role())
	for body, want := range map[string]string{
		`{"expireTime":"2026-03-01T13:00:00Z"}`:           "the answer to generateAccessToken has no token",
		`{"accessToken":"x"}`:                             "the answer to generateAccessToken has no time of expiry",
		`{"accessToken":"x","expireTime":"in a while"}`:   "the answer could not be understood",
		`{"accessToken":"x","expireTime":1772370000}`:     "the answer could not be understood",
		`{"accessToken":"x","expireTime":null,"extra":1}`: "the answer to generateAccessToken has no time of expiry",
	} {
		s.InjectFault(-1, gartest.MintMatch, issuertest.Status(http.StatusOK, body))
		_, err := mint(t, client, target, time.Hour)
		wantError(t, err, want, "")
		s.ClearFaults()
	}
}

func TestCheckMintsOnlyWhereTheConnectionNamesTheAccount(t *testing.T) {
	s := gartest.New(t)
	client, _ := open(t, s, s.Connection(), s.Role())
	status, err := client.Check(t.Context())
	if err != nil || status.Identity != gartest.Root || s.Minted() != 1 {
		t.Errorf("want the key's account and one mint, got %+v, %v, %d", status, err, s.Minted())
	}
	c := s.Connection()
	delete(c.Settings, "service_account")
	client, _ = open(t, s, c, issuer.Settings{"service_account": gartest.Puller})
	if _, err := client.Check(t.Context()); err != nil || s.Minted() != 1 {
		t.Errorf("want no mint, got %v, %d", err, s.Minted())
	}
}
