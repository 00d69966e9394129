// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

const adminPassword = marker + "-admin"

// clock is a clock that tests set.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// noNetwork is a transport that fails every request.
type noNetwork struct{}

func (noNetwork) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no network in tests")
}

// mintingRegistry is a registry of type "test", in memory. Its methods are safe for
// concurrent use.
type mintingRegistry struct {
	url string

	mu       sync.Mutex
	admins   map[string]bool // passwords that work
	living   map[string]bool // names of credentials
	minted   int
	expires  func(asked time.Time) time.Time // when a minted credential expires
	before   func(call string) error         // fails a call before it acts
	after    func(call string) error         // fails a call that has acted
	longest  time.Duration
	shortest time.Duration
	username string
	password func(name string) string // of the credential of that name
	status   issuer.Status
	defaults issuer.Settings // of the fields of roles

	failRevoking map[string]error // by ID
}

// mintingRegistries holds all of them by URL. Each test has its own.
var mintingRegistries sync.Map

func newMintingRegistry(t testing.TB) *mintingRegistry {
	t.Helper()
	r := &mintingRegistry{
		admins:   map[string]bool{adminPassword: true},
		living:   map[string]bool{},
		expires:  func(asked time.Time) time.Time { return asked },
		username: "robot",
		password: func(name string) string { return marker + name },
		status:   issuer.Status{Identity: "the administrator"},
	}
	r.url = fmt.Sprintf("https://%p.example.com", r)
	r.alsoAt(t, r.url)
	return r
}

// alsoAt gives the registry another URL.
func (r *mintingRegistry) alsoAt(t testing.TB, url string) {
	t.Helper()
	mintingRegistries.Store(url, r)
	t.Cleanup(func() { mintingRegistries.Delete(url) })
}

// names returns the names of the living credentials, sorted.
func (r *mintingRegistry) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := []string{}
	for name := range r.living {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (r *mintingRegistry) mints() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.minted
}

// fail makes each call of that name fail before it acts, or after.
func (r *mintingRegistry) fail(call string, err error) { r.set(&r.before, call, err) }

func (r *mintingRegistry) failAfter(call string, err error) { r.set(&r.after, call, err) }

// during runs something while a call of that name is answered.
func (r *mintingRegistry) during(call string, do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = func(name string) error {
		if name == call {
			do()
		}
		return nil
	}
}

func (r *mintingRegistry) set(hook *func(string) error, failing string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*hook = func(call string) error {
		if call == failing {
			return err
		}
		return nil
	}
}

// end ends credentials as somebody at the registry does.
func (r *mintingRegistry) end(names ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		delete(r.living, name)
	}
}

func (r *mintingRegistry) mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before, r.after = nil, nil
}

var (
	errRefused   = issuer.StatusError(http.StatusForbidden, nil, "no: "+adminPassword)
	errAmbiguous = issuer.StatusError(http.StatusInternalServerError, nil, "boom "+adminPassword)
	errDown      = issuer.Failed(&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded})
)

// testIssuer is a client of a mintingRegistry.
type testIssuer struct {
	registry *mintingRegistry
	password string
}

func init() { issuerTypes = append(issuerTypes, testType(), briefType()) }

// briefType is the type of a registry that can revoke nothing and cannot replace
// its root credential.
func briefType() issuer.Type {
	t := testType()
	t.Name, t.Can = "brief", func(issuer.Connection) issuer.Abilities { return issuer.Abilities{} }
	open := t.New
	t.New = func(c issuer.Connection) (issuer.Issuer, error) {
		opened, err := open(c)
		return briefIssuer{opened}, err
	}
	return t
}

type briefIssuer struct{ issuer.Issuer }

func (i briefIssuer) Mint(ctx context.Context, r issuer.Request) (issuer.Credential, error) {
	c, err := i.Issuer.Mint(ctx, r)
	c.ID = ""
	return c, err
}

func testType() issuer.Type {
	return issuer.Type{
		Name:        "test",
		Description: "Mints in memory.",
		ConnectionFields: map[string]*framework.FieldSchema{
			"username": {Type: framework.TypeString, Description: "User name."},
			"password": {Type: framework.TypeString, Description: "Password.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
		},
		RoleFields: map[string]*framework.FieldSchema{
			"project":  {Type: framework.TypeString, Description: "Project."},
			"projects": {Type: framework.TypeCommaStringSlice, Description: "More projects."},
		},
		Target: func(c issuer.Connection, fields issuer.Settings) (issuer.Target, error) {
			if fields["project"] == "" {
				return issuer.Target{}, errors.New("project: must be set")
			}
			target := issuer.Target{Settings: issuer.Settings{}, Names: []string{fields["project"]}}
			if r, found := mintingRegistries.Load(c.URL); found {
				target.MaxLifetime, target.MinLifetime = r.(*mintingRegistry).longest, r.(*mintingRegistry).shortest
				maps.Copy(target.Settings, r.(*mintingRegistry).defaults)
			}
			maps.Copy(target.Settings, fields)
			return target, nil
		},
		New: func(c issuer.Connection) (issuer.Issuer, error) {
			if c.Settings["username"] == "" {
				return nil, errors.New("username: must be set")
			}
			r, found := mintingRegistries.Load(c.URL)
			if !found {
				return nil, errors.New("url: no such test registry")
			}
			return testIssuer{r.(*mintingRegistry), c.Secrets["password"].Reveal()}, nil
		},
	}
}

// call runs act, unless a fault is set.
func (i testIssuer) call(name string, act func() error) error {
	i.registry.mu.Lock()
	before, after := i.registry.before, i.registry.after
	i.registry.mu.Unlock()
	if before != nil {
		if err := before(name); err != nil {
			return err
		}
	}
	i.registry.mu.Lock()
	var err error
	if i.registry.admins[i.password] {
		err = act()
	} else {
		err = issuer.Proving(issuer.ProvesRefused, issuer.StatusError(http.StatusUnauthorized, nil, "unknown password "+i.password))
	}
	i.registry.mu.Unlock()
	if after != nil && err == nil {
		return after(name)
	}
	return err
}

func (i testIssuer) Check(context.Context) (status issuer.Status, err error) {
	err = i.call("check", func() error {
		status = i.registry.status
		return nil
	})
	return status, err
}

func (i testIssuer) Mint(_ context.Context, r issuer.Request) (issuer.Credential, error) {
	var c issuer.Credential
	err := i.call("mint", func() error {
		i.registry.minted++
		i.registry.living[r.Name] = true
		c = issuer.Credential{
			ID: "id-" + r.Name, Username: i.registry.username, Password: dockerconfig.NewSecret(i.registry.password(r.Name)),
			ExpiresAt: i.registry.expires(r.ExpiresAt),
		}
		return nil
	})
	return c, err
}

func (i testIssuer) Find(_ context.Context, _ issuer.Settings, name string) (ids []string, err error) {
	err = i.call("find", func() error {
		if i.registry.living[name] {
			ids = []string{"id-" + name}
		}
		return nil
	})
	return ids, err
}

func (i testIssuer) Revoke(_ context.Context, _ issuer.Settings, name, id string) error {
	return i.call("revoke", func() error {
		if err := i.registry.failRevoking[id]; err != nil {
			return err
		}
		delete(i.registry.living, id[len("id-"):])
		return nil
	})
}

// PrepareRoot creates a password that contains the name, so that it can be found by
// name.
func (i testIssuer) PrepareRoot(_ context.Context, name string) (root issuer.Root, err error) {
	err = i.call("prepare", func() error {
		i.registry.admins[marker+name] = true
		root = issuer.Root{Secrets: issuer.Secrets{"password": dockerconfig.NewSecret(marker + name)}}
		return nil
	})
	return root, err
}

func (i testIssuer) ActivateRoot(context.Context, issuer.Root) error {
	return i.call("activate", func() error { return nil })
}

func (i testIssuer) DiscardRoot(_ context.Context, name string) error {
	return i.call("discard", func() error {
		delete(i.registry.admins, marker+name)
		return nil
	})
}

func (i testIssuer) RetireRoot(_ context.Context, old issuer.Root) error {
	return i.call("retire", func() error {
		delete(i.registry.admins, old.Secrets["password"].Reveal())
		return nil
	})
}

// adminPasswords returns the passwords that work, sorted.
func (r *mintingRegistry) adminPasswords() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for password := range r.admins {
		all = append(all, password)
	}
	slices.Sort(all)
	return all
}
