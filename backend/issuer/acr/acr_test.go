// SPDX-License-Identifier: MPL-2.0

package acr_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/acr"
	"vault-plugin-secrets-regcred/backend/issuer/acr/acrtest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

func subject(s *acrtest.Server, c issuer.Connection, role issuer.Settings) issuertest.Subject {
	return issuertest.Subject{
		Type:       acr.Type(),
		Connection: c,
		Role:       role,
		Server:     s.Server,
		Pulls:      func(c issuer.Credential) bool { return s.Pulls(c, acrtest.Repository) },
		Mints:      s.MintMatch,
		Living:     s.Living,
		BadSecrets: issuer.Secrets{"client_secret": dockerconfig.NewSecret("Q~wrong-wrong-wrong")},
	}
}

func TestConformsWithTokens(t *testing.T) {
	issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
		s := acrtest.New(t)
		for _, name := range []string{"other-1", "other-2", "other-3", "other-4"} { // more than a page
			s.AddToken(name)
		}
		return subject(s, s.Connection(), s.Role())
	})
}

func TestConformsWithTokensIfOperationsTakeLong(t *testing.T) {
	s := acrtest.New(t)
	s.SetSlow(true)
	client, target := subject(s, s.Connection(), s.Role()).Open(t)
	name := issuer.NewName("app")
	minted, err := mint(t, client, target, name)
	if err != nil || !s.Pulls(minted, acrtest.Repository) {
		t.Fatalf("want a credential that pulls, got %v", err)
	}
	if err := client.Revoke(t.Context(), target.Settings, name, minted.ID); err != nil || len(s.Living()) != 0 {
		t.Errorf("want it deleted when Revoke returns, got %v and %q", err, s.Living())
	}
}

func TestConformsWithAnExchange(t *testing.T) {
	issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
		s := acrtest.New(t)
		all := subject(s, s.Exchanging(), nil)
		all.Mints = acrtest.ExchangeMatch
		return all
	})
}

func TestConformsWithIdentityTokens(t *testing.T) {
	t.Run("tokens", func(t *testing.T) {
		issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
			s := acrtest.New(t)
			return subject(s, s.Trusting(&issuertest.Vault{}, s.Connection()), s.Role())
		})
	})
	t.Run("exchange", func(t *testing.T) {
		issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
			s := acrtest.New(t)
			all := subject(s, s.Trusting(&issuertest.Vault{}, s.Exchanging()), nil)
			all.Mints = acrtest.ExchangeMatch
			return all
		})
	})
}

func TestExchange(t *testing.T) {
	s := acrtest.New(t)
	client, target := subject(s, s.Exchanging(), nil).Open(t)
	status, err := client.Check(t.Context())
	want := issuer.Status{Identity: acrtest.Client, Declared: issuer.Settings{"refresh_token_lifetime": "1h15m0s"}}
	if diff := cmp.Diff(want, status); diff != "" || err != nil {
		t.Errorf("Check (-want +got):\n%s%v", diff, err)
	}
	before := time.Now()
	minted, err := mint(t, client, target, issuer.NewName("app"))
	if err != nil || minted.Username != "00000000-0000-0000-0000-000000000000" || minted.ID != "" || !s.Pulls(minted, "any/app") {
		t.Fatalf("want a credential that pulls, got %+v, %v", minted, err)
	}
	if left := minted.ExpiresAt.Sub(before); left < acrtest.RefreshLifetime-time.Second || left > acrtest.RefreshLifetime+time.Minute {
		t.Errorf("want the end that the token says, got one in %s", left)
	}
	if can := acr.Type().AbilitiesOf(s.Exchanging()); can != (issuer.Abilities{}) {
		t.Errorf("want nothing to find or revoke, got %+v", can)
	}
}

func mint(t *testing.T, client *issuer.Client, target issuer.Target, name string) (issuer.Credential, error) {
	t.Helper()
	return client.Mint(t.Context(), issuer.Request{Name: name, For: target.Settings, ExpiresAt: time.Now().Add(time.Hour)})
}

func wantError(t *testing.T, err error, part string, secrets ...string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("want an error with %q, got %v", part, err)
		return
	}
	for _, secret := range secrets {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error repeats a secret: %v", err)
		}
	}
}

func TestMintsWithTheTokenFileOfVaultsPod(t *testing.T) {
	s := acrtest.New(t)
	path := filepath.Join(t.TempDir(), "token")
	if err := acrtest.WritePodToken(path); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AZURE_FEDERATED_TOKEN_FILE", path)
	for name, tc := range map[string]struct {
		connection issuer.Connection
		role       issuer.Settings
	}{
		"tokens":   {s.Keyless(s.Connection()), s.Role()},
		"exchange": {s.Keyless(s.Exchanging()), nil},
	} {
		client, target := subject(s, tc.connection, tc.role).Open(t)
		if status, err := client.Check(t.Context()); err != nil || status.Identity != acrtest.Client {
			t.Errorf("%s: Check: got %+v, %v", name, status, err)
		}
		minted, err := mint(t, client, target, issuer.NewName("app"))
		if err != nil || !s.Pulls(minted, acrtest.Repository) {
			t.Errorf("%s: want a credential that pulls, got %v", name, err)
		}
	}
	client, target := subject(s, s.Keyless(s.Connection()), s.Role()).Open(t)
	if err := os.WriteFile(path, []byte("token-of-another-cluster"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := mint(t, client, target, issuer.NewName("app"))
	wantError(t, err, "answered 401 Unauthorized: invalid_client: AADSTS700213: No matching federated identity record found", "token-of-another-cluster")
	if !issuer.IsRefused(err) || !issuer.Definite(err) {
		t.Errorf("want a refusal that is definite, got %v", err)
	}
	for content, want := range map[string]string{
		"missing": "the file that AZURE_FEDERATED_TOKEN_FILE names on Vault's machine cannot be read",
		"empty":   "the file that AZURE_FEDERATED_TOKEN_FILE names on Vault's machine holds no token",
		"unset":   "no Azure credentials: write client_secret to the connection, or run Vault in a pod with Microsoft Entra Workload ID, where AZURE_FEDERATED_TOKEN_FILE names a token file",
	} {
		switch content {
		case "missing":
			t.Setenv("AZURE_FEDERATED_TOKEN_FILE", path+"-missing")
		case "empty":
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("AZURE_FEDERATED_TOKEN_FILE", path)
		case "unset":
			t.Setenv("AZURE_FEDERATED_TOKEN_FILE", "")
		}
		_, err := mint(t, client, target, issuer.NewName("app"))
		wantError(t, err, want, path)
	}
}

// A token that was made and has no password must be found and deleted.
func TestMintsWithIdentityTokens(t *testing.T) {
	t.Setenv("AZURE_FEDERATED_TOKEN_FILE", "") // not asked for
	s, vault := acrtest.New(t), &issuertest.Vault{}
	client, target := subject(s, s.Trusting(vault, s.Connection()), s.Role()).Open(t)
	if status, err := client.Check(t.Context()); err != nil || status.Identity != acrtest.Client {
		t.Errorf("Check: got %+v, %v", status, err)
	}
	minted, err := mint(t, client, target, issuer.NewName("app"))
	if err != nil || !s.Pulls(minted, acrtest.Repository) {
		t.Errorf("want a credential that pulls, got %v", err)
	}

	c := s.Trusting(vault, s.Connection())
	c.IdentityToken = vault.Source("of-another-application")
	client, target = subject(s, c, s.Role()).Open(t)
	_, err = mint(t, client, target, issuer.NewName("app"))
	wantError(t, err, "answered 401 Unauthorized: invalid_client: AADSTS700213: No matching federated identity record found", vault.Tokens()...)
	if !issuer.IsRefused(err) || !issuer.Definite(err) {
		t.Errorf("want a refusal that is definite, got %v", err)
	}
}

func TestFailedPasswordLeavesATokenThatIsFound(t *testing.T) {
	for name, fault := range map[string]issuertest.Fault{
		"refused":       issuertest.Status(http.StatusForbidden, `{"error":{"code":"AuthorizationFailed","message":"no"}}`),
		"not found":     issuertest.Status(http.StatusNotFound, `{"error":{"code":"TokenNotFound","message":"no"}}`),
		"cut":           issuertest.CutAfterActing,
		"garbage":       issuertest.GarbageAfterActing,
		"no password":   issuertest.Status(http.StatusOK, `{"username":"x","passwords":[]}`),
		"without end":   issuertest.Status(http.StatusOK, `{"username":"x","passwords":[{"name":"password1","value":"x"}]}`),
		"other server":  issuertest.Status(http.StatusAccepted, ``, "Location", "http://127.0.0.1:1/x"),
		"long requests": issuertest.TooManyRequests(600),
	} {
		t.Run(name, func(t *testing.T) {
			s := acrtest.New(t)
			client, target := subject(s, s.Connection(), s.Role()).Open(t)
			s.InjectFault(-1, acrtest.PasswordMatch, fault)
			credential := issuer.NewName("app")
			_, err := mint(t, client, target, credential)
			if err == nil || issuer.Definite(err) || len(s.Living()) != 1 {
				t.Fatalf("want an error that is not definite, and a token, got %v and %q", err, s.Living())
			}
			wantError(t, err, "(the token was made, and is deleted in some minutes)")
			s.ClearFaults()
			if err := client.RevokeNamed(t.Context(), target.Settings, credential); err != nil || len(s.Living()) != 0 {
				t.Errorf("want the token deleted, got %v and %q", err, s.Living())
			}
		})
	}
}

// The longest names do not fit: what is found must be what was made.
func TestLongNamesAreShortenedAndStayUnique(t *testing.T) {
	s := acrtest.New(t)
	client, target := subject(s, s.Connection(), s.Role()).Open(t)
	role := strings.Repeat("role", 12)
	first, second := issuer.NewName(role), issuer.NewName(role)
	for _, name := range []string{first, second} {
		minted, err := mint(t, client, target, name)
		if err != nil || len(minted.Username) != 50 || !strings.HasPrefix(minted.Username, "regcred-role") {
			t.Fatalf("want a token with a name of 50 characters, got %q, %v", minted.Username, err)
		}
	}
	if err := client.RevokeNamed(t.Context(), target.Settings, first); err != nil || len(s.Living()) != 1 || !strings.HasSuffix(s.Living()[0], second[len(second)-26:]) {
		t.Errorf("want only the first one deleted, got %v and %q", err, s.Living())
	}
}

func TestNewPasswordIsGivenWhenTheRegistryAcceptsIt(t *testing.T) {
	s := acrtest.New(t)
	s.SetLag(2)
	client, target := subject(s, s.Connection(), s.Role()).Open(t)
	minted, err := mint(t, client, target, issuer.NewName("app"))
	if err != nil || !s.Pulls(minted, acrtest.Repository) {
		t.Errorf("want a credential that pulls at once, got %v", err)
	}
	// A registry that cannot be reached from Vault is no reason to fail.
	s.InjectFault(-1, func(r *http.Request) bool { return r.URL.Path == "/oauth2/token" }, issuertest.Cut)
	if _, err := mint(t, client, target, issuer.NewName("app")); err != nil {
		t.Errorf("Mint: %v", err)
	}
}

// A 404 about the token proves nothing while the list cannot be read, or is of another
// kind; and a list is read to its end.
func TestOnlyAWholeListProvesThatATokenIsGone(t *testing.T) {
	list := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/tokens") }
	for name, fault := range map[string]issuertest.Fault{
		"gone too":     issuertest.Status(http.StatusNotFound, `{"error":{"code":"ResourceNotFound","message":"The registry was not found."}}`),
		"other JSON":   issuertest.Status(http.StatusOK, `{"message":"no"}`),
		"other server": issuertest.Status(http.StatusOK, `{"value":[],"nextLink":"http://127.0.0.1:1/x"}`),
		"a list":       issuertest.Status(http.StatusOK, `[]`),
	} {
		s := acrtest.New(t)
		client, target := subject(s, s.Connection(), s.Role()).Open(t)
		s.InjectFault(-1, list, fault)
		if err := client.RevokeNamed(t.Context(), target.Settings, issuer.NewName("x")); err == nil {
			t.Errorf("%s: want an error", name)
		}
	}
	s := acrtest.New(t)
	client, target := subject(s, s.Connection(), s.Role()).Open(t)
	name := issuer.NewName("x")
	for _, other := range []string{"other-1", "other-2", "other-3", "other-4", "other-5", "other-6"} {
		s.AddToken(other)
	}
	if _, err := mint(t, client, target, name); err != nil {
		t.Fatal(err)
	}
	// The read of one token fails as for one that is gone; the list has it on its last page.
	s.InjectFault(1, func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/tokens/")
	}, issuertest.Status(http.StatusNotFound, `{}`))
	if err := client.RevokeNamed(t.Context(), target.Settings, name); err != nil || slices.Contains(s.Living(), name) {
		t.Errorf("want it found on the last page and deleted, got %v and %q", err, s.Living())
	}
}

// Another server may answer a deletion with success in Azure's place.
func TestDeletionNeedsProof(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusNoContent} {
		s := acrtest.New(t)
		client, target := subject(s, s.Connection(), s.Role()).Open(t)
		name := issuer.NewName("app")
		if _, err := mint(t, client, target, name); err != nil {
			t.Fatal(err)
		}
		s.InjectFault(1, issuertest.Method(http.MethodDelete), issuertest.Status(status, ""))
		wantError(t, client.RevokeNamed(t.Context(), target.Settings, name), "the token is still there after its deletion")
		if err := client.RevokeNamed(t.Context(), target.Settings, name); err != nil || len(s.Living()) != 0 {
			t.Errorf("%d: want it ended by the next try, got %v", status, err)
		}
	}
}

// Azure writes the port into some of the addresses that lead on.
func TestAddressesWithThePortLeadOn(t *testing.T) {
	s := acrtest.New(t)
	t.Setenv("AZURE_FEDERATED_TOKEN_FILE", filepath.Join(t.TempDir(), "token"))
	if err := acrtest.WritePodToken(os.Getenv("AZURE_FEDERATED_TOKEN_FILE")); err != nil {
		t.Fatal(err)
	}
	client, target := subject(s, s.Keyless(s.Connection()), s.Role()).Open(t)
	s.InjectFault(1, func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/tokens") },
		issuertest.Status(http.StatusOK, `{"value":[],"nextLink":"https://management.azure.com:443`+acrtest.RegistryID+`/tokens?api-version=2023-07-01&$skiptoken=0"}`))
	if err := client.RevokeNamed(t.Context(), target.Settings, issuer.NewName("x")); err != nil {
		t.Errorf("want the next page read, got %v", err)
	}
	for _, other := range []string{"https://management.azure.com:8443/x", "https://management.azure.com.evil.example/x", "https://management.azure.com:443.evil.example/x", "https://management.azure.com@evil.example/x", "http://management.azure.com/x"} {
		s.InjectFault(1, func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/tokens") }, issuertest.Status(http.StatusOK, `{"value":[],"nextLink":"`+other+`"}`))
		wantError(t, client.RevokeNamed(t.Context(), target.Settings, issuer.NewName("x")), "the answer leads to another server; nothing was sent there")
	}
}

// A name that is taken may be of the same request, sent twice on the way.
func TestNameThatIsTaken(t *testing.T) {
	s := acrtest.New(t)
	client, target := subject(s, s.Connection(), s.Role()).Open(t)
	s.InjectFault(1, s.MintMatch, func(w http.ResponseWriter, r *http.Request, act http.Handler) {
		body, _ := io.ReadAll(r.Body)
		for _, answer := range []http.ResponseWriter{httptest.NewRecorder(), w} {
			r.Body = io.NopCloser(bytes.NewReader(body))
			act.ServeHTTP(answer, r)
		}
	})
	name := issuer.NewName("app")
	if _, err := mint(t, client, target, name); err == nil || issuer.Definite(err) || len(s.Living()) != 1 {
		t.Errorf("want an error that is not definite, and a token, got %v and %q", err, s.Living())
	}
	if err := client.RevokeNamed(t.Context(), target.Settings, name); err != nil || len(s.Living()) != 0 {
		t.Errorf("want the token deleted, got %v and %q", err, s.Living())
	}
}

// No token is made while Microsoft Entra fails: nothing is to be looked for.
func TestMintWithoutASignInHasDoneNothing(t *testing.T) {
	for name, fault := range map[string]issuertest.Fault{
		"500":      issuertest.Status(http.StatusInternalServerError, "boom"),
		"cut":      issuertest.Cut,
		"garbage":  issuertest.Garbage,
		"no token": issuertest.Status(http.StatusOK, "{}"),
	} {
		s := acrtest.New(t)
		client, target := subject(s, s.Connection(), s.Role()).Open(t)
		s.InjectFault(-1, func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/oauth2/v2.0/token") }, fault)
		if _, err := mint(t, client, target, issuer.NewName("app")); !issuer.Definite(err) {
			t.Errorf("%s: want a definite error, got %v", name, err)
		}
	}
}

// The token of the root credential must not follow an answer to another server.
func TestAnswersLeadToNoOtherServer(t *testing.T) {
	s, trap := acrtest.New(t), issuertest.NewServer(t, http.NotFoundHandler())
	client, target := subject(s, s.Connection(), s.Role()).Open(t)
	list := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/tokens") }
	s.InjectFault(-1, list, issuertest.Status(http.StatusOK, `{"value":[],"nextLink":"`+trap.URL+`/x"}`))
	wantError(t, client.RevokeNamed(t.Context(), target.Settings, issuer.NewName("x")), "the answer leads to another server; nothing was sent there")
	s.InjectFault(-1, acrtest.PasswordMatch, issuertest.Status(http.StatusAccepted, ``, "Location", trap.URL+"/x"))
	_, err := mint(t, client, target, issuer.NewName("x"))
	wantError(t, err, "the answer leads to another server; nothing was sent there")
	if calls := trap.Calls(); len(calls) != 0 {
		t.Errorf("want no call of another server, got %q", calls)
	}
}

func TestMissingPermissionsAreSaid(t *testing.T) {
	for _, permission := range acrtest.Permissions[:5] {
		s := acrtest.New(t)
		s.Deny(permission)
		client, target := subject(s, s.Connection(), s.Role()).Open(t)
		name := issuer.NewName("app")
		_, checked := client.Check(t.Context())
		_, minted := mint(t, client, target, name)
		revoked := client.RevokeNamed(t.Context(), target.Settings, name)
		said := 0
		for _, err := range []error{checked, minted, revoked} {
			if err != nil && strings.Contains(err.Error(), permission) {
				said++
			}
		}
		if said == 0 {
			t.Errorf("want %s said, got %v, %v and %v", permission, checked, minted, revoked)
		}
	}
}

func TestCheckRefusesAnIDOfAnotherRegistry(t *testing.T) {
	s := acrtest.New(t)
	path := filepath.Join(t.TempDir(), "token")
	if err := acrtest.WritePodToken(path); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AZURE_FEDERATED_TOKEN_FILE", path)
	c := s.Keyless(s.Connection())
	c.Registries = []dockerconfig.Key{"others.azurecr.io"}
	client, _ := subject(s, c, s.Role()).Open(t)
	_, err := client.Check(t.Context())
	wantError(t, err, "registry_id is that of acmeimages.azurecr.io, and registry is others.azurecr.io")
}

func TestErrorsRepeatNoTokenThatWasObtained(t *testing.T) {
	s := acrtest.New(t)
	client, target := subject(s, s.Connection(), s.Role()).Open(t)
	var sent string
	s.InjectFault(-1, acrtest.MintMatch, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		sent = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"error":{"code":"AuthorizationFailed","message":"no: ` + sent + `"}}`))
	})
	_, err := mint(t, client, target, issuer.NewName("app"))
	wantError(t, err, "AuthorizationFailed: [redacted]", sent)
	s = acrtest.New(t)
	client, target = subject(s, s.Exchanging(), nil).Open(t)
	s.InjectFault(-1, acrtest.ExchangeMatch, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		sent = r.PostFormValue("access_token")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"errors":[{"code":"UNAUTHORIZED","message":"no: ` + sent + `"}]}`))
	})
	_, err = mint(t, client, target, issuer.NewName("app"))
	wantError(t, err, "UNAUTHORIZED: [redacted]", sent)
	if issuer.IsRefused(err) {
		t.Errorf("want no refusal of the root credential, got %v", err)
	}
}

func TestRefreshTokensWithoutAnEndAreRefused(t *testing.T) {
	s := acrtest.New(t)
	client, target := subject(s, s.Exchanging(), nil).Open(t)
	for _, token := range []string{"", "x", "a.b.c", "e30.e30.e30", "e30.eyJleHAiOjE3NzIzNzAwMDB9.e30", "e30.eyJpYXQiOjE3NzIzNzAwMDAsImV4cCI6MTc3MjM3MDAwMH0.e30"} {
		s.InjectFault(-1, acrtest.ExchangeMatch, issuertest.Status(http.StatusOK, `{"refresh_token":"`+token+`"}`))
		_, err := mint(t, client, target, issuer.NewName("app"))
		wantError(t, err, "the answer to the exchange has no refresh token with an end")
		s.ClearFaults()
	}
}

func TestConnectionFields(t *testing.T) {
	secret := issuer.Secrets{"client_secret": dockerconfig.NewSecret("x")}
	good := issuer.Settings{"tenant_id": acrtest.Tenant, "client_id": acrtest.Client}
	with := func(field, value string) issuer.Settings {
		return issuer.Settings{"tenant_id": good["tenant_id"], "client_id": good["client_id"], field: value}
	}
	for name, tc := range map[string]struct {
		url        string
		registries []dockerconfig.Key
		settings   issuer.Settings
		secrets    issuer.Secrets
		wrong      string
	}{
		"exchange":     {"", []dockerconfig.Key{"acmeimages.azurecr.io"}, good, secret, ""},
		"keyless":      {"", []dockerconfig.Key{"acmeimages.azurecr.io"}, good, nil, ""},
		"hashed host":  {"", []dockerconfig.Key{"acmeimages-abc123.azurecr.io"}, with("registry_id", acrtest.RegistryID), nil, ""},
		"own name":     {"https://azure.example.com", []dockerconfig.Key{"images.example.com"}, good, secret, ""},
		"other host":   {"", []dockerconfig.Key{"images.example.com"}, good, secret, `registry: must be the login server of a registry, such as acmeimages.azurecr.io, not "images.example.com"; for a host name of your own in front of it, also set url`},
		"two":          {"", []dockerconfig.Key{"acmeimages.azurecr.io", "other.azurecr.io"}, good, secret, "registry: must be one registry, because a credential of Azure is good for one; create a connection for each"},
		"tenant":       {"", []dockerconfig.Key{"acmeimages.azurecr.io"}, with("tenant_id", "acme.onmicrosoft.com/.."), secret, "tenant_id: must be the ID of a Microsoft Entra tenant, such as 72f988bf-86f1-41af-91ab-2d7cd011db47, in lower case"},
		"client":       {"", []dockerconfig.Key{"acmeimages.azurecr.io"}, with("client_id", "vault"), secret, "client_id: must be the client ID of an application or managed identity, such as 11111111-2222-3333-4444-555555555555, in lower case"},
		"registry ID":  {"", []dockerconfig.Key{"acmeimages.azurecr.io"}, with("registry_id", acrtest.RegistryID+"/../x"), secret, "registry_id: must be the resource ID of the registry, as from az acr show --query id: /subscriptions/…/resourceGroups/…/providers/Microsoft.ContainerRegistry/registries/…"},
		"identity":     {"", []dockerconfig.Key{"acmeimages.azurecr.io"}, with("identity_token_audience", "api://AzureADTokenExchange"), nil, ""},
		"two ways":     {"", []dockerconfig.Key{"acmeimages.azurecr.io"}, with("identity_token_audience", "api://AzureADTokenExchange"), secret, "identity_token_audience: must be left out with client_secret, because a connection proves who it is in one way; to change it to identity tokens, write client_secret= (empty) in the same request"},
		"sent away":    {"https://azure.example.com", []dockerconfig.Key{"acmeimages.azurecr.io"}, with("identity_token_audience", "api://AzureADTokenExchange"), nil, "url: must be left out with identity_token_audience, because identity tokens are sent to Microsoft alone"},
		"sent to them": {"https://azure.example.com", []dockerconfig.Key{"acmeimages.azurecr.io"}, good, nil, "url: must be left out without client_secret, because the token of Vault's pod is sent to Microsoft alone"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := issuer.Open(acr.Type(), issuer.Connection{
				URL: tc.url, Registries: tc.registries, Settings: tc.settings, Secrets: tc.secrets, HTTP: issuer.NewHTTP(nil), Now: time.Now,
			})
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != tc.wrong {
				t.Errorf("want the error %q, got %q", tc.wrong, got)
			}
		})
	}
}

func TestTargets(t *testing.T) {
	s := acrtest.New(t)
	unknown, declared := s.Exchanging(), s.Exchanging()
	unknown.Declared, declared.Declared = nil, issuer.Settings{"refresh_token_lifetime": "3h0m0s"}
	unlimited := "the credential can do everything in the registry that the connection's application may do; set registry_id on the connection to limit it with scope_map"
	for name, tc := range map[string]struct {
		connection issuer.Connection
		role       issuer.Settings
		want       issuer.Target
		wrong      string
	}{
		"scope map":         {s.Connection(), s.Role(), issuer.Target{Settings: s.Role(), Names: []string{acrtest.ScopeMap}}, ""},
		"no scope map":      {s.Connection(), nil, issuer.Target{}, "scope_map: must be the name of a scope map of the registry, such as _repositories_pull, which may pull from every repository"},
		"path":              {s.Connection(), issuer.Settings{"scope_map": "../tokens/x"}, issuer.Target{}, "scope_map: must be 5 to 50 letters, digits, '_' or '-', such as _repositories_pull"},
		"exchange":          {unknown, nil, issuer.Target{Settings: issuer.Settings{}, Names: []string{"*"}, MaxLifetime: 75 * time.Minute, Warnings: []string{unlimited}}, ""},
		"exchange, checked": {declared, nil, issuer.Target{Settings: issuer.Settings{}, Names: []string{"*"}, MaxLifetime: 3 * time.Hour, Warnings: []string{unlimited}}, ""},
		"exchange, limited": {s.Exchanging(), s.Role(), issuer.Target{}, "scope_map: must be left out, because the connection has no registry_id: its credentials can do everything that the application may do; with registry_id, each has the rights of a scope map"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := acr.Type().Target(tc.connection, tc.role)
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

// What another registry's list lacks is not gone.
func TestTokenOfAnotherRegistryIsNotTakenAsGone(t *testing.T) {
	s := acrtest.New(t)
	client, target := subject(s, s.Connection(), s.Role()).Open(t)
	name := issuer.NewName("app")
	minted, err := mint(t, client, target, name)
	if err != nil {
		t.Fatal(err)
	}
	id := strings.Replace(minted.ID, "/registries/acmeimages/", "/registries/otherimages/", 1)
	err = client.Revoke(t.Context(), target.Settings, name, id)
	wantError(t, err, "the credential is a token of another registry, "+id+": write that registry_id again, or delete the token there")
	if !s.Pulls(minted, acrtest.Repository) {
		t.Error("want the token to be left alone")
	}
}

func TestScopeMapLimitsTheCredential(t *testing.T) {
	s := acrtest.New(t)
	client, target := subject(s, s.Connection(), s.Role()).Open(t)
	minted, err := mint(t, client, target, issuer.NewName("app"))
	if err != nil || s.Pulls(minted, "finance/app") {
		t.Errorf("want no access beyond the scope map, got %v", err)
	}
	_, err = client.Mint(context.Background(), issuer.Request{Name: issuer.NewName("app"), For: issuer.Settings{"scope_map": "no-such-map"}, ExpiresAt: time.Now().Add(time.Hour)})
	wantError(t, err, "ScopeMapNotFound")
	if !issuer.Definite(err) {
		t.Errorf("want a definite error, got %v", err)
	}
}
