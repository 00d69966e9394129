// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/acr/acrtest"
	"vault-plugin-secrets-regcred/backend/issuer/artifactory/artifactorytest"
	"vault-plugin-secrets-regcred/backend/issuer/dockerhub/dockerhubtest"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/harbor/harbortest"
	"vault-plugin-secrets-regcred/backend/issuer/httpbroker/brokertest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/backend/issuer/quay/quaytest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// minter is a registry of one type whose API can be made to fail.
type minter struct {
	*issuertest.Server
	kind       string
	connection issuer.Connection
	role       issuer.Settings
	mints      func(*http.Request) bool
	living     func() []string
	pulls      func(*testing.T, issuer.Credential) bool
	repository string // for verify_repository
	secret     string // field of the answer to a mint that has the secret
}

// registriesToFail starts one registry of each type that can revoke. The Gitea
// is a real one, behind a proxy.
func registriesToFail(g *servers.Gitea) map[string]func(*testing.T) minter {
	return map[string]func(*testing.T) minter{
		"gitlab": func(t *testing.T) minter {
			s := gitlabtest.New(t)
			return minter{
				s.Server, "gitlab", s.Connection(), s.Role(), s.MintMatch, s.Living,
				func(_ *testing.T, c issuer.Credential) bool { return s.Pulls(c, gitlabtest.Project) }, gitlabtest.Project + ":1", "token",
			}
		},
		"artifactory": func(t *testing.T) minter {
			s := artifactorytest.New(t)
			return minter{
				s.Server, "artifactory", s.Connection(), s.Role(), s.MintMatch, s.Living,
				func(_ *testing.T, c issuer.Credential) bool { return s.Pulls(c, artifactorytest.Repository) },
				artifactorytest.Repository + "/app:1", "access_token",
			}
		},
		"dockerhub": func(t *testing.T) minter {
			s := dockerhubtest.New(t)
			return minter{
				s.Server, "dockerhub", s.Connection(), s.Role(), s.MintMatch, s.Living,
				func(_ *testing.T, c issuer.Credential) bool { return s.Pulls(c, dockerhubtest.Repository) },
				dockerhubtest.Repository + ":1", "token",
			}
		},
		"harbor": func(t *testing.T) minter {
			s := harbortest.New(t)
			return minter{
				s.Server, "harbor", s.Connection(), s.Role(), s.MintMatch, s.Living,
				func(_ *testing.T, c issuer.Credential) bool {
					return s.Accepts(c.Username, c.Password.Reveal(), harbortest.Project+"/app", "pull")
				}, harbortest.Project + "/app:1", "secret",
			}
		},
		"quay": func(t *testing.T) minter {
			s := quaytest.New(t)
			return minter{
				s.Server, "quay", s.Connection(), s.Role(), s.MintMatch, s.Living,
				func(_ *testing.T, c issuer.Credential) bool { return s.Pulls(c, quaytest.Repository) },
				quaytest.Organization + "/" + quaytest.Repository + ":1", "token",
			}
		},
		"http": func(t *testing.T) minter {
			s := brokertest.New(t)
			return minter{
				s.Server, "http", s.Connection(), s.Role(), s.MintMatch, s.Living,
				func(_ *testing.T, c issuer.Credential) bool { return s.Pulls(c, brokertest.Scope+"/app") },
				brokertest.Scope + "/app:1", "password",
			}
		},
		"acr": func(t *testing.T) minter {
			s := acrtest.New(t)
			return minter{
				s.Server, "acr", s.Connection(), s.Role(), s.MintMatch, s.Living,
				func(_ *testing.T, c issuer.Credential) bool { return s.Pulls(c, acrtest.Repository) }, acrtest.Repository + ":1", "",
			}
		},
		"gitea": func(t *testing.T) minter {
			p := g.Proxy(t)
			image := pushedToGitea(t, g, p.Puller)
			return minter{
				p.Server, "gitea", p.Connection(), p.Role(), p.MintMatch, p.Living,
				func(t *testing.T, c issuer.Credential) bool { return pulls(t, image, c) },
				strings.TrimPrefix(image, g.Host+"/"), "sha1",
			}
		},
	}
}

// mintFault is a fault while the engine mints.
type mintFault struct {
	fault issuertest.Fault // nil: the server is down
	says  string           // what the reader gets to see

	// acts: the registry has minted all the same, and the engine cannot know
	// the credential.
	acts bool

	// mints is how many requests to mint one read makes.
	mints int64

	// hangs: readers are told so before the call has failed.
	hangs bool
}

var mintFaults = map[string]mintFault{
	"is down":                   {fault: nil, says: "the connection failed", mints: 0},
	"does not know us":          {fault: issuertest.Status(http.StatusUnauthorized, `{"message":"no"}`), says: "answered 401", mints: 1},
	"refuses":                   {fault: issuertest.Status(http.StatusForbidden, `{"message":"no"}`), says: "answered 403", mints: 1},
	"asks to wait":              {fault: issuertest.TooManyRequests(8), says: "it can be asked again in 8s", mints: 1},
	"fails before acting":       {fault: issuertest.Status(http.StatusInternalServerError, `boom`), says: "answered 500", mints: 1},
	"fails after acting":        {fault: issuertest.StatusAfterActing(http.StatusInternalServerError, `boom`), says: "answered 500", acts: true, mints: 1},
	"hangs":                     {fault: issuertest.Hang, says: "no complete answer within the time limit", mints: 1, hangs: true},
	"hangs after acting":        {fault: issuertest.HangAfterActing, says: "no complete answer within the time limit", acts: true, mints: 1, hangs: true},
	"cuts":                      {fault: issuertest.Cut, says: "the connection", mints: 1},
	"cuts after acting":         {fault: issuertest.CutAfterActing, says: "the connection", acts: true, mints: 1},
	"answers garbage":           {fault: issuertest.Garbage, says: "the answer", mints: 1},
	"garbage after acting":      {fault: issuertest.GarbageAfterActing, says: "the answer", acts: true, mints: 1},
	"gives what does not work":  {fault: wrongSecret, says: "cannot pull from verify_repository", mints: 1},
	"redirects to another host": {fault: issuertest.Status(http.StatusTemporaryRedirect, "", "Location", "http://127.0.0.1:1/"), says: "a redirect, which is not followed", mints: 1},
}

// wrongSecret mints, and answers with another secret.
func wrongSecret(w http.ResponseWriter, r *http.Request, act http.Handler) {
	recorded := httptest.NewRecorder()
	act.ServeHTTP(recorded, r)
	var body map[string]any
	if err := json.Unmarshal(recorded.Body.Bytes(), &body); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	for _, field := range []string{"token", "secret", "sha1", "access_token", "password"} {
		if body[field] != nil {
			body[field] = "does-not-work"
		}
	}
	maps.Copy(w.Header(), recorded.Header())
	w.Header().Del("Content-Length")
	w.WriteHeader(recorded.Code)
	_ = json.NewEncoder(w).Encode(body)
}

// TestFaultsOfMinting causes each fault at each type of registry, and checks
// what reads get and what becomes of the credentials.
func TestFaultsOfMinting(t *testing.T) {
	t.Parallel()
	v, g := servers.StartVaultWith(t, buildPlugin(t, "v0.1.0-dev", "-tags=killpoints")), servers.StartGitea(t)
	number := 0
	for kind, start := range registriesToFail(g) {
		for name, f := range mintFaults {
			if kind == "acr" && name == "gives what does not work" {
				continue // the password is in the answer to another request
			}
			number++
			mount := fmt.Sprintf("%s-%d", kind, number)
			t.Run(kind+" "+name, func(t *testing.T) {
				t.Parallel()
				newFaultWorld(t, v, mount, start(t)).try(t, f)
			})
		}
	}
}

// faultWorld is a mount and a registry of its own, with three roles: leased;
// current, which is shared and was read before the fault; and first, which is
// shared and is read for the first time during the fault.
type faultWorld struct {
	minter
	v     *servers.Vault
	mount string
	asked *atomic.Int64
}

func newFaultWorld(t *testing.T, v *servers.Vault, mount string, m minter) *faultWorld {
	t.Helper()
	w := &faultWorld{minter: m, v: v, mount: mount, asked: countMints(m.Server, m.mints)}
	v.Enable(t, mount)
	for role, others := range map[string]fields{"leased": {"mode": "leased"}, "current": nil, "first": nil} {
		// Each role has a connection of its own, because a registry that fails is left
		// alone by all roles of a connection.
		connect(t, v.Client, mount+"/connections/"+role, m.kind, m.connection, fields{"allowed_roles": role})
		data := dynamic(role, m.role, others)
		data["verify_repository"] = m.repository
		write(t, v.Client, w.mount+"/roles/"+role, data)
	}
	return w
}

func (w *faultWorld) creds(t *testing.T, role string) issuer.Credential {
	t.Helper()
	return credentialOf(read(t, w.v.Client, w.mount+"/creds/"+role))
}

func (w *faultWorld) try(t *testing.T, f mintFault) {
	before := w.creds(t, "current")
	w.asked.Store(0)
	up := func() {}
	if f.fault == nil {
		up = w.down(t)
	} else {
		w.InjectFault(-1, w.mints, f.fault)
	}
	w.whileFailing(t, f, before)
	w.ClearFaults()
	up()
	if !w.pulls(t, before) {
		t.Error("want the current credential to pull after the fault")
	}

	// A credential that was certainly refused, or tried and found not to work,
	// is gone; one that may exist is found later. What hung for half a minute may have
	// been found by then.
	orphans := 0
	if f.acts {
		orphans = 3
	}
	if living := w.living(); len(living) != 1+orphans && (!f.acts || !f.hangs) {
		t.Errorf("after the fault: want %d credentials alive, got %q", 1+orphans, living)
	}
	w.recovers(t, before)
	w.nothingIsOrphaned(t)
}

// whileFailing reads and rotates. It does so all at once, because some requests
// take long. While a registry hangs, readers are told so, and the calls go on until
// they fail.
func (w *faultWorld) whileFailing(t *testing.T, f mintFault, before issuer.Credential) {
	t.Helper()
	status, says := http.StatusBadGateway, f.says
	if f.hangs {
		status, says = http.StatusServiceUnavailable, "has not answered for"
	}
	once := servers.Impatient(t, w.v.Client)
	var trying sync.WaitGroup
	fails := func(what string, do func() error) {
		trying.Go(func() {
			err := do()
			if !isStatus(err, status) || !strings.Contains(fmt.Sprint(err), says) {
				t.Errorf("%s: want an error with status %d that says %q, got %v", what, status, says, err)
			}
			for _, secret := range append(w.connection.Secrets.Reveal(), before.Password.Reveal()) {
				if strings.Contains(fmt.Sprint(err), secret) {
					t.Errorf("%s: the error repeats a secret: %v", what, err)
				}
			}
		})
	}
	for what, role := range map[string]string{"a leased read": "leased", "a first read of a shared role": "first"} {
		fails(what, func() error {
			_, err := once.Logical().Read(w.mount + "/creds/" + role)
			return err
		})
	}
	fails("rotate", func() error {
		_, err := once.Logical().Write(w.mount+"/rotate/current", nil)
		return err
	})
	for range 3 {
		if got := w.creds(t, "current"); !same(got, before) {
			t.Error("want the current credential served while the registry fails")
		}
	}
	trying.Wait()
	if got := w.creds(t, "current"); !same(got, before) {
		t.Error("want the current credential served after the registry has failed")
	}
	if got := w.asked.Load(); got != 3*f.mints && (!f.hangs || got != 2) { // a leased mint may be given up before it is sent
		t.Errorf("want %d requests to mint, got %d", 3*f.mints, got)
	}
	if f.hangs && f.acts {
		servers.Eventually(t, func() error {
			if living := w.living(); len(living) < 3 {
				return fmt.Errorf("want the new credentials of both shared roles alive, got %q", living)
			}
			return nil
		})
	}
	if leases := w.leases(t); len(leases) != 0 {
		t.Errorf("want no lease, got %q", leases)
	}
	for _, role := range []string{"current", "first"} {
		check := func() error {
			got := read(t, w.v.Client, w.mount+"/roles/"+role)
			if said, _ := got["last_error"].(string); !strings.Contains(said, f.says) || got["last_error_at"] == nil {
				return fmt.Errorf("the role %s: want last_error to say %q, got %v", role, f.says, got)
			}
			return nil
		}
		if f.hangs {
			servers.Eventually(t, check)
		} else if err := check(); err != nil {
			t.Error(err)
		}
	}
	if f.hangs {
		w.tellsWhy(t, f)
	}
}

// tellsWhy waits until a read is told why the calls failed. Between two pauses a read
// tries again, and is told that the registry has not answered.
func (w *faultWorld) tellsWhy(t *testing.T, f mintFault) {
	t.Helper()
	for _, role := range []string{"first", "leased"} {
		servers.Eventually(t, func() error {
			if err := w.readFails(role); !isStatus(err, http.StatusBadGateway) || !strings.Contains(err.Error(), f.says) {
				return fmt.Errorf("a read of the role %s: want status 502 and %q, got %s", role, f.says, fmt.Sprint(err))
			}
			return nil
		})
	}
}

// readFails returns the error of a read, or an error if there is none. A read
// that succeeds does not say what is wrong.
func (w *faultWorld) readFails(role string) error {
	_, err := w.v.Client.Logical().Read(w.mount + "/creds/" + role)
	return err
}

// recovers reads and rotates after the fault.
func (w *faultWorld) recovers(t *testing.T, before issuer.Credential) {
	t.Helper()
	servers.Eventually(t, func() error { return w.readFails("first") })
	if !w.pulls(t, w.creds(t, "first")) {
		t.Error("a shared role that was read for the first time: want a credential that pulls")
	}
	write(t, w.v.Client, w.mount+"/rotate/current", nil)
	if got := w.creds(t, "current"); same(got, before) || !w.pulls(t, got) {
		t.Error("a shared role that was rotated: want a new credential that pulls")
	}
	if !w.pulls(t, before) {
		t.Error("want the former credential to pull within its grace period")
	}
	var leased issuer.Credential
	servers.Eventually(t, func() error {
		secret, err := w.v.Client.Logical().Read(w.mount + "/creds/leased")
		if err == nil {
			leased = credentialOf(secret.Data)
		}
		return err
	})
	if !w.pulls(t, leased) {
		t.Error("a leased role: want a credential that pulls")
	}
	for _, role := range []string{"current", "first"} {
		if got := read(t, w.v.Client, w.mount+"/roles/"+role); got["last_error"] != nil {
			t.Errorf("the role %s: want no last_error after a success, got %v", role, got["last_error"])
		}
	}
}

// nothingIsOrphaned rolls back, as Vault does when write-ahead entries are five
// minutes old. Then exactly those credentials live that are served, were served
// a moment ago, or are leased; and none after these are deleted.
func (w *faultWorld) nothingIsOrphaned(t *testing.T) {
	t.Helper()
	w.rollsBackTo(t, 4) // current and its former one, first, leased
	leases := w.leases(t)
	if len(leases) != 1 {
		t.Fatalf("want one lease, got %q", leases)
	}
	if err := w.v.Client.Sys().RevokeWithOptions(revokeNow(w.mount + "/creds/leased/" + leases[0])); err != nil {
		t.Errorf("revoking the lease: %v", err)
	}
	for _, role := range []string{"leased", "current", "first"} {
		if _, err := w.v.Client.Logical().Delete(w.mount + "/roles/" + role); err != nil {
			t.Errorf("deleting the role %s: %v", role, err)
		}
	}
	w.rollsBackTo(t, 0)
	for _, connection := range []string{"leased", "current", "first"} {
		if _, err := w.v.Client.Logical().Delete(w.mount + "/connections/" + connection); err != nil {
			t.Errorf("deleting the connection %s, which nothing uses any more: %v", connection, err)
		}
	}
}

func (w *faultWorld) rollsBackTo(t *testing.T, want int) {
	t.Helper()
	servers.Eventually(t, func() error {
		if _, err := w.v.Client.Logical().Write(w.mount+"/killpoints/rollback", nil); err != nil {
			return err
		}
		if living := w.living(); len(living) != want {
			return fmt.Errorf("want %d credentials alive after a rollback, got %q", want, living)
		}
		return nil
	})
}

// leases returns the IDs of the leases of the role leased.
func (w *faultWorld) leases(t *testing.T) []string {
	t.Helper()
	return leasesBelow(t, w.v.Client, w.mount+"/creds/leased")
}

// down closes the server. The function that it returns starts it again at the
// same address, which another program may have for a moment.
func (w *faultWorld) down(t *testing.T) (up func()) {
	t.Helper()
	w.Close()
	return func() {
		var listener net.Listener
		servers.Eventually(t, func() (err error) {
			listener, err = net.Listen("tcp", w.Host())
			return err
		})
		server := &http.Server{Handler: w.Server, ReadHeaderTimeout: time.Minute}
		t.Cleanup(func() { _ = server.Close() })
		go func() { _ = server.Serve(listener) }()
	}
}

// TestShortFaultsAreRetried causes faults that end before the engine retries
// within the same read, so that no reader notices.
func TestShortFaultsAreRetried(t *testing.T) {
	t.Parallel()
	v, g := servers.StartVault(t), servers.StartGitea(t)
	for kind, start := range registriesToFail(g) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newFaultWorld(t, v, kind, start(t))
			w.InjectFault(2, w.mints, issuertest.TooManyRequests(0))
			if !w.pulls(t, w.creds(t, "leased")) || w.asked.Load() != 3 {
				t.Errorf("429 twice: want a credential that pulls after three requests, got %d", w.asked.Load())
			}
			w.InjectFault(2, issuertest.Method(http.MethodDelete), issuertest.Status(http.StatusBadGateway, ""))
			if err := v.Client.Sys().RevokeWithOptions(revokeNow(kind + "/creds/leased/" + w.leases(t)[0])); err != nil {
				t.Errorf("502 twice for a deletion: want the lease revoked, got %v", err)
			}
			if living := w.living(); len(living) != 0 {
				t.Errorf("want nothing alive after the lease was revoked, got %q", living)
			}
		})
	}
}

// TestFaultsOfRevoking uses registries that do not revoke. A credential that is
// not revoked is kept, shown and tried again; one that is gone already counts
// as revoked.
func TestFaultsOfRevoking(t *testing.T) {
	t.Parallel()
	v, g := servers.StartVault(t), servers.StartGitea(t)
	for kind, start := range registriesToFail(g) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newFaultWorld(t, v, kind, start(t))
			write(t, v.Client, w.mount+"/roles/current", fields{"grace_period": 0})
			before := w.creds(t, "current")
			leased := w.creds(t, "leased")
			w.InjectFault(-1, issuertest.Method(http.MethodDelete), issuertest.Status(http.StatusForbidden, `{"message":"no"}`))

			lease := kind + "/creds/leased/" + w.leases(t)[0]
			if err := v.Client.Sys().RevokeWithOptions(revokeNow(lease)); err == nil || !strings.Contains(err.Error(), "answered 403") {
				t.Errorf("revoking a lease: want the registry's refusal, got %v", err)
			}
			if len(w.leases(t)) != 1 || !w.pulls(t, leased) {
				t.Error("want the lease kept that could not be revoked")
			}
			write(t, v.Client, w.mount+"/rotate/current", nil)
			w.creds(t, "current") // starts the work that is due
			servers.Eventually(t, func() error {
				role := read(t, v.Client, w.mount+"/roles/current")
				if waiting := fmt.Sprint(role["pending_revocations"]); !strings.Contains(waiting, "answered 403") {
					return fmt.Errorf("want pending_revocations to say why, got %s", waiting)
				}
				return nil
			})
			if !w.pulls(t, before) {
				t.Error("want the former credential to be alive, because it could not be revoked")
			}
			_, err := v.Client.Logical().Delete(w.mount + "/connections/current")
			if got := refusal(t, err); !strings.Contains(got, "is in use") {
				t.Errorf("want the connection kept, got %s", got)
			}

			w.ClearFaults()
			if err := v.Client.Sys().RevokeWithOptions(revokeNow(lease)); err != nil {
				t.Errorf("revoking the lease once more: %v", err)
			}
			// The engine tries again after a minute, when the role is read.
			servers.Eventually(t, func() error {
				w.creds(t, "current")
				if role := read(t, v.Client, w.mount+"/roles/current"); role["pending_revocations"] != nil {
					return fmt.Errorf("these wait to be revoked: %v", role["pending_revocations"])
				}
				return nil
			})
			if living := w.living(); len(living) != 1 || w.pulls(t, before) || w.pulls(t, leased) {
				t.Errorf("want only the current credential alive, got %q", living)
			}
		})
	}
}

// TestReaderThatGivesUp uses readers that do not wait for a slow registry. A
// credential that is minted for them is served to others, or revoked.
func TestReaderThatGivesUp(t *testing.T) {
	t.Parallel()
	v, g := servers.StartVault(t), servers.StartGitea(t)
	for kind, start := range registriesToFail(g) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newFaultWorld(t, v, kind, start(t))
			reached, goOn := make(chan struct{}, 2), make(chan struct{})
			w.Watch(func(r *http.Request) {
				if w.mints(r) {
					w.asked.Add(1)
					reached <- struct{}{}
					<-goOn
				}
			}, nil)
			ctx, giveUp := context.WithCancel(t.Context())
			var reading sync.WaitGroup
			for _, role := range []string{"leased", "first"} {
				reading.Go(func() {
					if _, err := v.Client.Logical().ReadWithContext(ctx, w.mount+"/creds/"+role); err == nil {
						t.Errorf("the role %s: want the reader to give up", role)
					}
				})
			}
			<-reached
			<-reached
			giveUp()
			reading.Wait()
			time.Sleep(time.Second) // until Vault has cancelled the request
			close(goOn)

			servers.Eventually(t, func() error {
				if living := w.living(); len(living) != 1 || !strings.HasPrefix(living[0], "regcred-first-") {
					return fmt.Errorf("want the credential of the shared role alive and no other, got %q", living)
				}
				return nil
			})
			if !w.pulls(t, w.creds(t, "first")) || w.asked.Load() != 2 {
				t.Errorf("want the credential of the reader that gave up served to others, got %d mints", w.asked.Load())
			}
			if leases := w.leases(t); len(leases) != 0 {
				t.Errorf("want no lease, got %q", leases)
			}
		})
	}
}
