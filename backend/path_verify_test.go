// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/registry"
)

func verify(t *testing.T, e *engine, role string, data fields) fields {
	t.Helper()
	return e.must(logical.UpdateOperation, "verify/"+role, data).Data
}

func TestVerifyAnswersForOneRegistry(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", with(credential, fields{"verify_repository": "group/app:1"}))
	e.registries.answer("ghcr.io", registry.Result{Verdict: registry.Denied, Message: "DENIED: not yours"})
	checkSame(t, "answer", fields{
		"verdict": "denied", "registry": "ghcr.io", "repository": "group/app:1", "message": "DENIED: not yours",
	}, verify(t, e, "app", nil))
	checkSame(t, "asked", []string{"ghcr.io me group/app:1"}, e.registries.asked)

	verify(t, e, "app", fields{"repository": "other/app"})
	verify(t, e, "app", fields{"repository": "ghcr.io/other/app:2"})
	checkSame(t, "asked", []string{"ghcr.io me other/app", "ghcr.io me other/app:2"}, e.registries.asked[1:])
}

func TestVerifyAnswersForEachMemberWithTheWorstVerdict(t *testing.T) {
	e := newEngine(t)
	e.write("roles/b", with(member("b.example.com", "all"), fields{"verify_repository": "app"}))
	e.write("roles/a", member("a.example.com", "all"))
	e.write("roles/all", fields{"members": "a,b"})
	for want, answers := range map[string][2]registry.Verdict{
		"ok":          {registry.OK, registry.OK},
		"unverified":  {registry.Unverified, registry.OK},
		"not_found":   {registry.Unverified, registry.NotFound},
		"unreachable": {registry.Unreachable, registry.NotFound},
		"denied":      {registry.Unreachable, registry.Denied},
	} {
		e.registries.answer("a.example.com", registry.Result{Verdict: answers[0]})
		e.registries.answer("b.example.com", registry.Result{Verdict: answers[1], Message: "because"})
		checkSame(t, "answer", fields{
			"verdict":       want,
			"a.example.com": string(answers[0]) + " (role a)",
			"b.example.com": string(answers[1]) + " (role b, repository app): because",
		}, verify(t, e, "all", nil))
	}
	e.registries.asked = nil
	verify(t, e, "all", fields{"repository": "a.example.com/one"})
	slices.Sort(e.registries.asked)
	checkSame(t, "asked", []string{"a.example.com user one", "b.example.com user app"}, e.registries.asked)
	e.refused(logical.UpdateOperation, "verify/all", fields{"repository": "one"}, "repository: must begin with one of the pull secret's registries")
	e.refused(logical.UpdateOperation, "verify/all", fields{"repository": "a.example.com/One Two"}, "repository: ")
}

func TestVerifyChoosesRepositoriesByRegistryAndPath(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", fields{
		"dockerconfigjson":  `{"auths":{"ghcr.io/a":{"auth":"dTpw"},"ghcr.io/b":{"auth":"dTpw"},"docker.io":{"auth":"dTpw"}}}`,
		"verify_repository": "ghcr.io/a/app",
	})
	verify(t, e, "app", nil)
	verify(t, e, "app", fields{"repository": "docker.io/acme/app:1"})
	slices.Sort(e.registries.asked)
	checkSame(t, "asked", []string{
		"ghcr.io/a u a/app", "ghcr.io/a u a/app", "ghcr.io/b u ", "ghcr.io/b u ",
		"https://index.docker.io/v1/ u ", "https://index.docker.io/v1/ u acme/app:1",
	}, e.registries.asked)
	e.refused(logical.UpdateOperation, "roles/app", fields{"verify_repository": "quay.io/app"}, "verify_repository: must begin with one of the role's registries")
	e.refused(logical.UpdateOperation, "roles/app", fields{"verify_repository": "ghcr.io/A B"}, "verify_repository: ")

	// In GitLab an image can have exactly the path of its project.
	e.write("roles/app", fields{"verify_repository": "ghcr.io/a:1.4"})
	e.registries.asked = nil
	verify(t, e, "app", nil)
	slices.Sort(e.registries.asked)
	checkSame(t, "asked", []string{"ghcr.io/a u a:1.4", "ghcr.io/b u ", "https://index.docker.io/v1/ u "}, e.registries.asked)
	e.write("roles/single", with(credential, fields{"registry": "ghcr.io/a"}))
	e.refused(logical.UpdateOperation, "roles/single", fields{"verify_repository": "other/app"}, "verify_repository: must be below ghcr.io/a")
	e.refused(logical.UpdateOperation, "verify/single", fields{"repository": "aa/app"}, "repository: must be below ghcr.io/a")
}

// A registry that hangs must not block other writes, and the write must store
// exactly what was verified.
func TestVerifyOnWriteWaitsWithoutTheLock(t *testing.T) {
	e := newEngine(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	e.newVerifier = func(*x509.CertPool) verifier { return slowRegistry{asked, answer} }
	done := make(chan *logical.Response)
	go func() {
		resp, err := e.HandleRequest(t.Context(), &logical.Request{
			Operation: logical.CreateOperation, Path: "roles/app", Storage: e.storage, Data: with(credential, fields{"verify": true}),
		})
		if err != nil {
			t.Error(err)
		}
		done <- resp
	}()
	<-asked
	e.write("roles/app", with(credential, fields{"username": "other"})) // must not wait for the registry
	close(answer)
	resp := <-done
	if !resp.IsError() {
		t.Fatalf("want a refusal, because the role is there by now, got %v", resp)
	}
	checkContains(t, resp.Error().Error(), "meanwhile; try again")
	checkSame(t, "user name", "other", e.read("creds/app")["username"])
}

// slowRegistry answers when the test lets it.
type slowRegistry struct{ asked, answer chan struct{} }

func (s slowRegistry) Verify(context.Context, dockerconfig.Credential, string) registry.Result {
	close(s.asked)
	<-s.answer
	return registry.Result{Verdict: registry.OK, Accepted: true}
}

func TestVerifyOnWriteStoresOnlyWhatWasVerified(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", credential)
	e.newVerifier = func(*x509.CertPool) verifier {
		return changingRegistry(func() { e.write("roles/app", fields{"password": marker + "-meanwhile"}) })
	}
	resp, err := e.request(logical.UpdateOperation, "roles/app", fields{"email": "a@example.com", "verify": true})
	if err != nil || !resp.IsError() {
		t.Fatalf("want a refusal, because another password was written meanwhile, got %v, %v", resp, err)
	}
	checkContains(t, resp.Error().Error(), "changed meanwhile; try again")
	checkSame(t, "password", marker+"-meanwhile", e.read("creds/app")["password"])
}

// changingRegistry runs a function while it is asked.
type changingRegistry func()

func (c changingRegistry) Verify(context.Context, dockerconfig.Credential, string) registry.Result {
	c()
	return registry.Result{Verdict: registry.OK, Accepted: true}
}

func TestVerifyOnWriteStoresOnlyWhatTheRegistriesAccept(t *testing.T) {
	for verdict, c := range map[registry.Verdict]struct{ accepted, stored bool }{
		registry.OK:          {true, true},
		registry.Denied:      {false, false},
		registry.NotFound:    {false, false},
		registry.Unreachable: {false, false},
		registry.Unverified:  {true, true},
	} {
		e := newEngine(t)
		e.registries.answer("ghcr.io", registry.Result{Verdict: verdict, Accepted: c.accepted, Message: "said so"})
		data := with(credential, fields{"verify": true})
		if c.stored {
			e.write("roles/app", data)
			e.read("creds/app")
			continue
		}
		e.refused(logical.UpdateOperation, "roles/app", data, "verify: nothing is stored", `registry "ghcr.io": `+string(verdict), "said so")
	}
	e := newEngine(t)
	e.registries.answer("ghcr.io", registry.Result{Verdict: registry.Unverified, Message: "names no single registry"})
	e.refused(logical.UpdateOperation, "roles/app", with(credential, fields{"verify": "true"}), "names no single registry")
	e.write("roles/app", with(credential, fields{"verify": false}))
	e.refused(logical.UpdateOperation, "roles/app", fields{"verify": "perhaps"}, "verify: must be true or false")
}

func TestVerifyAsksOnlyAllowedRegistries(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", credential)
	e.write("config", fields{"allowed_registries": "quay.io"})
	e.refused(logical.UpdateOperation, "verify/app", nil, `registry "ghcr.io"`)
	e.refused(logical.UpdateOperation, "roles/new", with(credential, fields{"verify": true}), "allowed_registries")
	if len(e.registries.asked) > 0 {
		t.Errorf("registries were asked: %v", e.registries.asked)
	}
}

func TestVerifyOfASharedRoleTriesWhatItServes(t *testing.T) {
	e := newSharingEngine(t)
	e.write("roles/app", fields{"verify_repository": "group/app:1"})
	e.write("roles/static", member("static.example.com", "all"))
	e.write("roles/all", fields{"members": "app,static"})
	one := fields{"registry": "registry.example.com", "repository": "group/app:1"}
	checkSame(t, "answer", with(one, fields{"verdict": "ok"}), verify(t, e, "app", nil))
	checkSame(t, "answer of a bundle", fields{
		"verdict": "ok", "registry.example.com": "ok (role app, repository group/app:1)", "static.example.com": "ok (role static)",
	}, verify(t, e, "all", nil))
	verify(t, e, "app", fields{"repository": "group/other"})
	checkSame(t, "mints, which nobody was given", 3, e.minting.mints())
	e.checkLiving(0)
	checkSame(t, "stored credentials", 0, len(keysBelow(t, e, sharedStoragePrefix)))

	e.read("creds/app")
	verify(t, e, "app", nil)
	verify(t, e, "all", nil)
	checkSame(t, "mints once one is served", 4, e.minting.mints())
	e.checkLiving(1)
	e.write("roles/all", fields{"members": "app,static", "verify": true})
}

// Nobody gets the credential with which a leased role is verified.
func TestVerifyOfALeasedRoleMintsATrialCredential(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("roles/leased", leasedRole)
	var asked time.Time
	e.minting.expires = func(at time.Time) time.Time { asked = at; return at }
	e.registries.answer("registry.example.com", registry.Result{Verdict: registry.Denied, Message: "not yours"})
	one := fields{"registry": "registry.example.com", "repository": "group/app", "message": "not yours"}
	checkSame(t, "answer", with(one, fields{"verdict": "denied"}),
		verify(t, e, "leased", fields{"repository": "group/app"}))
	checkSame(t, "the trial's expiry", noon.Add(trialLifetime), asked)
	checkSame(t, "living credentials", []string{}, e.minting.names())
	checkSame(t, "stored keys", []string{"connection-roles/app/leased", "connections/app", "role-types/dynamic/leased", "roles/leased", "root-checks/app"}, keysOf(e.snapshot()))

	e.minting.fail("revoke", errDown)
	verify(t, e, "leased", nil) // the answer does not depend on it
	checkSame(t, "write-ahead entries", 1, len(keysBelow(t, e, "wal/")))
	e.minting.mend()
	e.mustRollBack()
	checkSame(t, "living credentials", []string{}, e.minting.names())

	e.minting.fail("mint", errRefused)
	e.failed(logical.UpdateOperation, "verify/leased", nil, http.StatusBadGateway, `role "leased"`)
	e.System().(*logical.StaticSystemView).ReplicationStateVal = consts.ReplicationPerformanceStandby
	if _, err := e.request(logical.UpdateOperation, "verify/leased", nil); !errors.Is(err, logical.ErrReadOnly) {
		t.Errorf("want ErrReadOnly, which Vault forwards on, got %v", err)
	}
}

func TestVerifyOfAMissingRoleIsNotFound(t *testing.T) {
	e := newEngine(t)
	if _, err := e.request(logical.UpdateOperation, "verify/app", nil); err == nil || err.(logical.HTTPCodedError).Code() != 404 { //nolint:errorlint // as Vault does
		t.Errorf("want status 404, got %v", err)
	}
}

func TestVerifyTrustsTheCAOfTheConfig(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", credential)
	verify(t, e, "app", nil)
	if e.registries.cas != nil {
		t.Error("want the system's certificates without ca_pem")
	}
	const key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
	for _, bad := range []string{"no certificate", testCA + key, key + testCA, testCA + "rest", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		e.refused(logical.UpdateOperation, "config", fields{"ca_pem": bad}, "ca_pem: must hold")
	}
	e.write("config", fields{"ca_pem": testCA})
	verify(t, e, "app", nil)
	if e.registries.cas == nil {
		t.Error("want a pool with the certificate of ca_pem")
	}
	checkSame(t, "read-back", testCA, e.read("config")["ca_pem"])
	e.write("config", fields{"ca_pem": ""})
	checkSame(t, "read-back", nil, e.read("config")["ca_pem"])
}

// testCA is a certificate whose key nobody has.
const testCA = `-----BEGIN CERTIFICATE-----
MIIBhzCCAS2gAwIBAgIUYCBW0Sfjv7MAr2qrPFCWNSzNprowCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNcmVnY3JlZCB0ZXN0czAgFw0yNjExMjMwNDE3MDNaGA8yMTI2
MTAzMDA0MTcwM1owGDEWMBQGA1UEAwwNcmVnY3JlZCB0ZXN0czBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABHcPLGEWtlxRAjTdPxkq8wpaZ3CE7rzoGK2JPHwppwOK
38eWrKs9tAUiQJm1Rc7dpWhWAJN6T1BAH66mi81TQ8KjUzBRMB0GA1UdDgQWBBRK
xm7LTOxU/co3zs18V6mrAefTgDAfBgNVHSMEGDAWgBRKxm7LTOxU/co3zs18V6mr
AefTgDAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIQCCkyfxV64a
rDSysbyujykQjnDQOElWcgKgFP9J9b+zDgIgQfyJIWPi9WF+PbB+w4qB5Ha+ODw+
a6tdTnnAu/L05AA=
-----END CERTIFICATE-----
`

// A registry that refuses what is minted for a verification is what the
// verification is to find out.
func TestVerifyOfADynamicRoleSaysDenied(t *testing.T) {
	for name, role := range map[string]fields{"shared": sharedRole, "leased": leasedRole} {
		t.Run(name, func(t *testing.T) {
			e := newConnectedEngine(t)
			e.write("roles/app", with(role, fields{"verify_repository": "group/app"}))
			e.registries.answer("registry.example.com", registry.Result{Verdict: registry.Denied, Message: "said so"})
			checkSame(t, "verdict", any("denied"), verify(t, e, "app", nil)["verdict"])
			e.registries.asked = nil
			verify(t, e, "app", fields{"repository": "group/other"})
			checkSame(t, "asked", slices.Repeat([]string{"registry.example.com robot group/other"}, trialTries), e.registries.asked)
			checkSame(t, "living credentials", []string{}, e.minting.names())
			checkSame(t, "stored credentials", 0, len(keysBelow(t, e, sharedStoragePrefix)))
		})
	}
}
