// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/httpbroker/brokertest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/tests/servers"
)

const manyReads = 1000

// TestManyFirstReadsAreOneMint reads a shared role a thousand times at once, at each type
// of registry, which answers only when all reads have been sent.
func TestManyFirstReadsAreOneMint(t *testing.T) {
	t.Parallel()
	v, g := servers.StartVault(t), servers.StartGitea(t)
	starts := registriesToFail(g)
	starts["url"] = func(t *testing.T) minter {
		u := brokertest.NewURL(t)
		return minter{
			Server: u.Server, kind: "http", connection: u.FieldsConnection(), mints: u.MintMatch,
			pulls: func(_ *testing.T, c issuer.Credential) bool { return u.Pulls(c) },
		}
	}
	for kind, start := range starts {
		t.Run(kind, func(t *testing.T) {
			m := start(t)
			connect(t, v.Client, "regcred/connections/"+kind, m.kind, m.connection, fields{"allowed_roles": "first-" + kind})
			write(t, v.Client, "regcred/roles/first-"+kind, dynamic(kind, m.role, nil))

			mints, held := holdMints(m.Server, m.mints)
			first := readManyAtOnce(t, v.Client, "regcred/creds/first-"+kind, held)
			if got := mints.Load(); got != 1 {
				t.Errorf("want one mint for %d first reads, got %d", manyReads, got)
			}
			if !m.pulls(t, first) {
				t.Error("want a credential that pulls")
			}

			// A current credential is served without a call to the registry's API.
			calls := apiCalls(m.Server)
			again := readManyAtOnce(t, v.Client, "regcred/creds/first-"+kind, nil)
			if again.Password.Reveal() != first.Password.Reveal() {
				t.Error("want the same credential from later reads")
			}
			if more := apiCalls(m.Server)[len(calls):]; len(more) > 0 {
				t.Errorf("want no call for reads of a current credential, got %q", more)
			}
		})
	}
}

// apiCalls returns the calls of a registry that are no pulls.
func apiCalls(s *issuertest.Server) []string {
	return slices.DeleteFunc(s.Calls(), func(call string) bool { return strings.Contains(call, " /v2/") })
}

// TestExpiredWhileSealedIsOneMint keeps Vault sealed until a shared credential
// has expired, and then reads a thousand times at once.
func TestExpiredWhileSealedIsOneMint(t *testing.T) {
	t.Parallel()
	v, lab := servers.StartRaftVault(t), gitlabtest.New(t)
	connect(t, v.Client, "regcred/connections/gitlab", "gitlab", lab.Connection(), fields{"allowed_roles": "my_app"})
	write(t, v.Client, "regcred/roles/my_app", dynamic("gitlab", lab.Role(), nil))
	lab.InjectFault(1, lab.MintMatch, untilSoon(4*time.Second))
	old := credentialOf(read(t, v.Client, "regcred/creds/my_app"))
	if err := v.Client.Sys().Seal(); err != nil {
		t.Fatal(err)
	}
	servers.Eventually(t, func() error {
		if lab.Pulls(old, gitlabtest.Project) {
			return errors.New("the credential still works")
		}
		return nil
	})
	// Vault and GitLab agree on the expiry to the second.
	time.Sleep(time.Second)

	mints, held := holdMints(lab.Server, lab.MintMatch)
	v.Unseal(t)
	password := readManyAtOnce(t, v.Client, "regcred/creds/my_app", held)
	if got := mints.Load(); got != 1 {
		t.Errorf("want one mint for %d reads of an expired credential, got %d", manyReads, got)
	}
	if password.Password.Reveal() == old.Password.Reveal() || !lab.Pulls(password, gitlabtest.Project) {
		t.Error("want a new credential that pulls")
	}
}

// holdMints counts mints, and holds each until the channel is closed.
func holdMints(s *issuertest.Server, isMint func(*http.Request) bool) (*atomic.Int64, chan struct{}) {
	var mints atomic.Int64
	held := make(chan struct{})
	s.Watch(func(r *http.Request) {
		if isMint(r) {
			mints.Add(1)
			<-held
		}
	}, nil)
	return &mints, held
}

// readManyAtOnce returns the credential that all reads get, and fails the test
// if they get different ones. It closes held, unless that is nil, when all
// reads have been sent.
func readManyAtOnce(t *testing.T, client *api.Client, path string, held chan struct{}) issuer.Credential {
	t.Helper()
	var (
		reads, sent sync.WaitGroup
		mu          sync.Mutex
		given       = map[string]issuer.Credential{}
	)
	sent.Add(manyReads)
	for range manyReads {
		reads.Go(func() {
			sent.Done()
			secret, err := client.Logical().Read(path)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || secret == nil {
				t.Errorf("reading %s: %v", path, err)
				return
			}
			c := credentialOf(secret.Data)
			given[c.Password.Reveal()] = c
		})
	}
	sent.Wait()
	if held != nil {
		time.Sleep(time.Second) // until most of them have reached the plugin
		close(held)
	}
	reads.Wait()
	if len(given) != 1 {
		t.Fatalf("want one credential for all reads, got %d", len(given))
	}
	for _, c := range given {
		return c
	}
	return issuer.Credential{}
}

// untilSoon makes GitLab mint a deploy token that ends sooner than requested.
func untilSoon(lifetime time.Duration) issuertest.Fault {
	return func(w http.ResponseWriter, r *http.Request, act http.Handler) {
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body["expires_at"] = time.Now().Add(lifetime).UTC().Format(time.RFC3339)
		sooner, err := json.Marshal(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(sooner)), int64(len(sooner))
		act.ServeHTTP(w, r)
	}
}
