// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/pluginidentityutil"
	"github.com/hashicorp/vault/sdk/helper/pluginutil"
	"github.com/hashicorp/vault/sdk/logical"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/acr/acrtest"
	"vault-plugin-secrets-regcred/backend/issuer/ecr/ecrtest"
	"vault-plugin-secrets-regcred/backend/issuer/gar/gartest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// enterprise is what an engine knows of a Vault Enterprise.
type enterprise struct {
	logical.StaticSystemView
	vault issuertest.Vault
}

func (e *enterprise) GenerateIdentityToken(ctx context.Context, req *pluginutil.IdentityTokenRequest) (*pluginutil.IdentityTokenResponse, error) {
	return e.vault.GenerateIdentityToken(ctx, req)
}

// trusting is a cloud that trusts the identity tokens of a Vault.
type trusting struct {
	conn  issuer.Connection
	role  issuer.Settings
	pulls func(issuer.Credential) bool
}

var clouds = map[string]func(*testing.T, *issuertest.Vault, func() time.Time) trusting{
	"ecr": func(t *testing.T, vault *issuertest.Vault, now func() time.Time) trusting {
		s := ecrtest.New(t)
		s.SetNow(now)
		return trusting{s.Trusting(vault), s.Role(), func(c issuer.Credential) bool { return s.Pulls(c, "team/app") }}
	},
	"acr": func(t *testing.T, vault *issuertest.Vault, now func() time.Time) trusting {
		s := acrtest.New(t)
		s.SetNow(now)
		return trusting{s.Trusting(vault, s.Connection()), s.Role(), func(c issuer.Credential) bool { return s.Pulls(c, acrtest.Repository) }}
	},
	"gar": func(t *testing.T, vault *issuertest.Vault, now func() time.Time) trusting {
		s := gartest.New(t)
		s.SetNow(now)
		return trusting{s.Trusting(vault), s.Role(), func(c issuer.Credential) bool { return s.Pulls(c, gartest.Repository) }}
	},
}

// newEnterpriseEngine has an engine on a Vault Enterprise, a cloud that trusts its identity
// tokens, and the fields of a connection to it. No text of the engine may hold a token.
func newEnterpriseEngine(t *testing.T, kind string) (*engine, *enterprise, trusting, fields) {
	t.Helper()
	server := &enterprise{StaticSystemView: logical.StaticSystemView{DefaultLeaseTTLVal: 768 * time.Hour, MaxLeaseTTLVal: 768 * time.Hour}}
	e := newEngine(t, func(conf *logical.BackendConfig) { conf.System = server })
	e.clock.at = time.Now()
	cloud := clouds[kind](t, &server.vault, e.clock.now)
	e.newHTTP = func(*x509.CertPool) *http.Client { return cloud.conn.HTTP }
	written := fields{"type": kind, "registry": string(cloud.conn.Registries[0]), "allowed_roles": "*"}
	if cloud.conn.URL != "" {
		written["url"] = cloud.conn.URL
	}
	for field, value := range cloud.conn.Settings {
		written[field] = value
	}
	t.Cleanup(func() {
		everything := e.log.String() + fmt.Sprint(e.events.Events, e.snapshot())
		for _, token := range server.vault.Tokens() {
			if strings.Contains(everything, token) {
				t.Error("an identity token is in the log, in an event or in storage")
			}
		}
	})
	return e, server, cloud, written
}

func (c trusting) pullsWith(read fields) bool {
	return c.pulls(issuer.Credential{Username: read["username"].(string), Password: dockerconfig.NewSecret(read["password"].(string))})
}

// each runs a test for each type that takes identity tokens.
func eachCloud(t *testing.T, test func(t *testing.T, kind string)) {
	var taking []string
	for _, it := range issuerTypes {
		if it.ConnectionFields[issuer.FieldIdentityTokenAudience] != nil {
			taking = append(taking, it.Name)
		}
	}
	checkSame(t, "types that take identity tokens", slices.Sorted(maps.Keys(clouds)), taking)
	for kind := range clouds {
		t.Run(kind, func(t *testing.T) { test(t, kind) })
	}
}

func TestIdentityTokensTakeThePlaceOfARootCredential(t *testing.T) {
	eachCloud(t, func(t *testing.T, kind string) {
		e, server, cloud, written := newEnterpriseEngine(t, kind)
		e.write("connections/cloud", written)
		read := e.read("connections/cloud")
		checkSame(t, "audience and ttl", []any{written["identity_token_audience"], int64(3600)}, []any{read["identity_token_audience"], read["identity_token_ttl"]})
		e.write("connections/cloud", fields{"identity_token_ttl": "30m"})
		checkSame(t, "ttl", any(int64(1800)), e.read("connections/cloud")["identity_token_ttl"])
		e.patch("connections/cloud", fields{"identity_token_ttl": nil})
		checkSame(t, "ttl after null", any(int64(3600)), e.read("connections/cloud")["identity_token_ttl"])

		asked := len(server.vault.Asked())
		e.read("connections/cloud/check")
		want := pluginutil.IdentityTokenRequest{Audience: written["identity_token_audience"].(string), TTL: time.Hour}
		checkSame(t, "what Vault was asked for", []pluginutil.IdentityTokenRequest{want}, server.vault.Asked()[asked:])

		role := fields{"connection": "cloud", "rotation_period": "30m", "grace_period": "15m"}
		for field, value := range cloud.role {
			role[field] = value
		}
		e.write("roles/app", role)
		if !cloud.pullsWith(e.read("creds/app")) {
			t.Error("want a credential that pulls")
		}
		delete(role, "rotation_period")
		delete(role, "grace_period")
		e.write("roles/leased", with(role, fields{"mode": "leased", "ttl": "15m"}))
		resp, _ := e.lease("creds/leased")
		if !cloud.pullsWith(resp.Data) {
			t.Error("want a leased credential that pulls")
		}
		stored := e.snapshot()
		e.refusedWithTrace("update", "connections/cloud/rotate-root", nil, issuer.ErrNothingToRotate.Error())
		checkSame(t, "storage after a refused rotate-root", stored, e.snapshot())
	})
}

// unsupported are the errors of servers that give plugins no identity tokens, as a plugin
// gets them.
var unsupported = map[string]error{
	"in the process of Vault": fmt.Errorf("failed to generate plugin identity token: %w", pluginidentityutil.ErrPluginWorkloadIdentityUnsupported),
	"Vault":                   status.Error(codes.Internal, "failed to generate plugin identity token: "+pluginidentityutil.ErrPluginWorkloadIdentityUnsupported.Error()),
	"OpenBao":                 status.Error(codes.Unimplemented, "unknown method GenerateIdentityToken for service pb.SystemView"),
}

// failing has Vault answer with an error; nil for none.
func (e *enterprise) failing(err error) {
	if err == nil {
		e.vault.SetFault(nil)
		return
	}
	e.vault.SetFault(func(context.Context) (*pluginutil.IdentityTokenResponse, error) { return nil, err })
}

func TestServersWithoutIdentityTokensSayWhatToUse(t *testing.T) {
	eachCloud(t, func(t *testing.T, kind string) {
		secret := map[string]string{"ecr": "secret_access_key", "acr": "client_secret", "gar": "service_account_key"}[kind]
		want := "identity_token_audience: this server gives plugins no identity tokens, which needs Vault Enterprise; leave it out, and write " + secret + ", or let the connection use the identity of the machine or pod that Vault runs on"
		for name, err := range unsupported {
			e, server, _, written := newEnterpriseEngine(t, kind)
			server.failing(err)
			for _, verify := range []bool{true, false} {
				e.refused("create", "connections/cloud", with(written, fields{"verify_connection": verify}), want)
			}
			if t.Failed() {
				t.Fatal(name)
			}
		}
	})
}

func TestVaultThatFailsIsNoMistakeOfTheWriter(t *testing.T) {
	e, server, _, written := newEnterpriseEngine(t, "acr")
	for want, err := range map[string]error{
		"identity_token_audience: no identity token came from Vault: the key does not exist": status.Error(codes.Internal, "the key\ndoes not exist"),
		"identity_token_audience: no identity token came from Vault: a text":                 errors.New("a text"),
	} {
		server.failing(err)
		stored := e.snapshot()
		resp, got := e.request("create", "connections/cloud", with(written, fields{"verify_connection": false}))
		if resp != nil || got == nil || got.Error() != want {
			t.Errorf("want the error %q, got response %v, error %v", want, resp, got)
		}
		checkSame(t, "storage after a failure", stored, e.snapshot())
	}
	server.vault.SetFault(func(context.Context) (*pluginutil.IdentityTokenResponse, error) {
		return &pluginutil.IdentityTokenResponse{}, nil
	})
	if _, err := e.identityToken(t.Context(), nil); err == nil || err.Error() != "the identity token that came from Vault is empty" {
		t.Errorf("want an empty token refused, got %v", err)
	}
	server.vault.SetFault(func(ctx context.Context) (*pluginutil.IdentityTokenResponse, error) {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := e.identityToken(ctx, nil); err == nil || err.Error() != "no identity token came from Vault in time" {
		t.Errorf("want the wait to end with the request, got %v", err)
	}
}

// A licence may end, or the storage be restored to a server of the community edition.
func TestServerThatLosesIdentityTokensLosesNothingElse(t *testing.T) {
	e, server, cloud, written := newEnterpriseEngine(t, "acr")
	e.write("connections/cloud", written)
	e.write("roles/app", fields{"connection": "cloud", "scope_map": acrtest.ScopeMap, "rotation_period": "1h", "grace_period": "30m"})
	e.write("roles/leased", fields{"connection": "cloud", "scope_map": acrtest.ScopeMap, "mode": "leased", "ttl": "15m"})
	served := e.read("creds/app")
	leased, lease := e.lease("creds/leased")

	server.failing(unsupported["Vault"])
	const want = "this server gives plugins no identity tokens, which needs Vault Enterprise"
	checkSame(t, "what is served", served["password"], e.read("creds/app")["password"])
	before := e.snapshot()
	e.failed("read", "creds/leased", nil, http.StatusBadGateway, want)
	e.failed("read", "connections/cloud/check", nil, http.StatusBadGateway, want)
	for key := range e.snapshot() {
		if strings.HasPrefix(key, "wal/") && before[key] == "" {
			t.Errorf("want nothing kept of a mint that made no call, got %s", key)
		}
	}
	if _, err := e.onLease(logical.RevokeOperation, lease); err != nil {
		t.Logf("revocation: %v", err) // it may be noted, and done later
	}
	if !cloud.pullsWith(leased.Data) {
		t.Fatal("want the lease's credential to live, because nobody could end it")
	}
	e.write("connections/cloud", fields{"allowed_roles": "app,leased", "verify_connection": false}) // it can still be restricted
	e.refused("update", "connections/cloud", fields{"allowed_roles": "app"}, "verify_connection: nothing is stored", want)
	e.clock.advance(61 * time.Minute)
	e.minute()
	if got := e.read("roles/app")["last_error"]; !strings.Contains(fmt.Sprint(got), want) {
		t.Errorf("want the role to say %q, got %v", want, got)
	}

	server.failing(nil)
	e.clock.advance(2 * time.Minute)
	e.minute()
	if read := e.read("creds/app"); read["password"] == served["password"] || !cloud.pullsWith(read) {
		t.Error("want the credential replaced as soon as there are tokens again")
	}
	for range 10 {
		e.clock.advance(5 * time.Minute)
		e.minute()
		_ = e.rollBack()
	}
	if cloud.pullsWith(leased.Data) {
		t.Error("want the lease's credential ended in the end")
	}
}

func TestChangeToIdentityTokensKeepsTheConnection(t *testing.T) {
	e, server, cloud, written := newEnterpriseEngine(t, "acr")
	delete(written, "identity_token_audience")
	e.write("connections/cloud", with(written, fields{"client_secret": marker, "verify_connection": false}))
	e.failed("read", "connections/cloud/check", nil, http.StatusBadGateway, "invalid_client")
	checkSame(t, "attention", []string{"root_refused <nil>cloud"}, e.needsAttention())
	checkSame(t, "tokens asked for", 0, len(server.vault.Asked()))
	id := e.stored("connections/cloud")["id"]

	e.refused("update", "connections/cloud", fields{"identity_token_audience": acrtest.IdentityAudience},
		"identity_token_audience: must be left out with client_secret, because a connection proves who it is in one way; to change it to identity tokens, write client_secret= (empty) in the same request")
	e.clock.advance(time.Second)
	e.write("connections/cloud", fields{"identity_token_audience": acrtest.IdentityAudience, "client_secret": ""})
	checkSame(t, "attention after the change", []string{}, e.needsAttention())
	e.write("roles/app", fields{"connection": "cloud", "scope_map": acrtest.ScopeMap})
	served := e.read("creds/app")

	// Another audience and another time are about proofs, not about what was minted.
	e.write("connections/cloud", fields{"identity_token_audience": "of-another-application", "identity_token_ttl": 120, "verify_connection": false})
	e.minute()
	checkSame(t, "ID of the connection", id, e.stored("connections/cloud")["id"])
	if read := e.read("creds/app"); read["password"] != served["password"] || !cloud.pullsWith(read) || e.read("roles/app")["given_up"] != nil {
		t.Error("want the credential kept")
	}
	e.failed("read", "connections/cloud/check", nil, http.StatusBadGateway, "AADSTS700213")
	checkSame(t, "attention about the wrong audience", []string{"root_refused <nil>cloud"}, e.needsAttention())
	checkContains(t, fmt.Sprint(e.read("status")["attention"]), "have the registry's side trust the identity tokens of this mount, or correct the fields of connections/cloud")

	e.refused("update", "connections/cloud", fields{"client_secret": marker}, "identity_token_audience: must be left out with client_secret")
	e.write("connections/cloud", fields{"identity_token_audience": "", "client_secret": marker, "verify_connection": false})
	read := e.read("connections/cloud")
	checkSame(t, "audience and ttl", []any{nil, nil}, []any{read["identity_token_audience"], read["identity_token_ttl"]})
}

func TestFieldsOfIdentityTokens(t *testing.T) {
	e, _, _, written := newEnterpriseEngine(t, "gar")
	const ttl = "identity_token_ttl: must be from 1m to 24h; the default is 1h"
	const audience = "identity_token_audience: must be the audience that the other side expects of the token, without white space, and of at most 600 bytes"
	for want, wrong := range map[string][]fields{
		ttl: {{"identity_token_ttl": "59s"}, {"identity_token_ttl": "25h"}, {"identity_token_ttl": 90000}},
		audience: {
			{"identity_token_audience": "a b"}, {"identity_token_audience": "a\x00b"}, {"identity_token_audience": strings.Repeat("a", 601)},
		},
		"identity_token_ttl: must be left out without identity_token_audience": {{"identity_token_audience": "", "identity_token_ttl": "1h"}},
		"identity_token_ttl: ": {{"identity_token_ttl": "-5m"}, {"identity_token_ttl": "an hour"}},
	} {
		for _, f := range wrong {
			e.refused("create", "connections/cloud", with(written, f), want)
		}
	}
	e.refused("create", "connections/cloud", fields{"type": "gitea", "url": "https://gitea.example.com", "registry": "gitea.example.com", "identity_token_audience": "vault"},
		"identity_token_audience: a connection of type gitea does not have this field, which is for type acr, ecr or gar")
	e.write("connections/cloud", with(written, fields{"identity_token_ttl": "", "verify_connection": false}))
	checkSame(t, "ttl", any(int64(3600)), e.read("connections/cloud")["identity_token_ttl"])
}
