// SPDX-License-Identifier: MPL-2.0

package storagetest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer/ecr/ecrtest"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/harbor/harbortest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// Registries replace the registries of a dump's connections. They hold the dump's
// credentials, and accept its root credentials. [Dump.StartRegistries] changes the dump for
// that: it gets their addresses, their root credentials, and the IDs that they gave.
type Registries struct {
	servers []*issuertest.Server
	living  []func() []string
	admins  map[string]func() []string
}

// CredentialRef is a credential of a dump.
type CredentialRef struct {
	Connection string            `json:"connection"`
	Name       string            `json:"name"`
	ID         string            `json:"id"`
	For        map[string]string `json:"for"`
}

// StartRegistries starts a registry, with the given clock, for each connection that had one.
func (d *Dump) StartRegistries(t testing.TB, now func() time.Time) *Registries {
	t.Helper()
	r := &Registries{admins: map[string]func() []string{}}
	all := d.connections()
	maps.DeleteFunc(all, func(_ string, c connection) bool { return !strings.HasPrefix(c.URL, "http://") }) // never called
	// In two steps, because a new server may get the address of an old one.
	place := func(name string) string { return "http://" + name + ".invalid" }
	for name, c := range all {
		d.Replace(c.URL, place(name))
	}
	for name, c := range all {
		start := map[string]func(testing.TB, *Registries, string, connection, func() time.Time) *issuertest.Server{
			"gitlab": d.gitlab, "harbor": d.harbor, "gitea": d.gitea, "ecr": d.ecr,
		}[c.Type]
		if start == nil {
			t.Fatalf("nothing stands in for a connection of type %q", c.Type)
		}
		server := start(t, r, name, c, now)
		d.Replace(place(name), server.URL)
		r.servers = append(r.servers, server)
	}
	return r
}

// Living returns the names of the credentials that work at any of them, sorted.
func (r *Registries) Living() []string {
	var names []string
	for _, living := range r.living {
		names = append(names, living()...)
	}
	slices.Sort(names)
	return names
}

// Admins returns the names of the root credentials that work at the GitLab of a
// connection, sorted.
func (r *Registries) Admins(connection string) []string { return r.admins[connection]() }

// Fail makes all of them answer 503 to everything, until Recover.
func (r *Registries) Fail() {
	for _, s := range r.servers {
		s.InjectFault(-1, nil, issuertest.Status(http.StatusServiceUnavailable, "", "Retry-After", "3600"))
	}
}

// Recover ends Fail.
func (r *Registries) Recover() {
	for _, s := range r.servers {
		s.ClearFaults()
	}
}

// account is the service account that owns the root credentials.
const account = "vault"

func (d *Dump) gitlab(t testing.TB, r *Registries, name string, c connection, now func() time.Time) *issuertest.Server {
	lab := gitlabtest.New(t)
	lab.SetNow(now)
	user := lab.AddServiceAccount(gitlabtest.Group, account)
	lab.SetMember(gitlabtest.Group, user, gitlabtest.Owner)
	add := func(name string) string { return lab.AddToken(user, name, []string{"api"}, 0) }

	d.Replace(c.Secrets["token"], add(cmp.Or(c.Root.Name, "first")))
	if c.Root.Pending != nil {
		d.Replace(c.Root.Pending.Secrets["token"], add(c.Root.Pending.Name))
	}
	if c.Root.Retired != nil {
		d.Replace(c.Root.Retired.Secrets["token"], add("retired"))
	}
	for _, root := range d.walData("root") {
		if root.Connection == name {
			add(root.Name)
		}
	}
	for _, m := range d.credentialsOf(name) {
		d.setID(m, lab.AddMinted(cmp.Or(m.For["project"], m.For["group"]), m.For["token_type"], m.Name))
	}
	r.living = append(r.living, lab.Living)
	r.admins[name] = lab.Admins
	return lab.Server
}

func (d *Dump) harbor(t testing.TB, r *Registries, name string, c connection, now func() time.Time) *issuertest.Server {
	harbor := harbortest.New(t)
	harbor.SetNow(now)
	d.Replace(c.Secrets["password"], harbortest.Password)
	for _, m := range d.credentialsOf(name) {
		d.setID(m, harbor.AddMinted(m.For["projects"], m.Name))
	}
	r.living = append(r.living, harbor.Living)
	return harbor.Server
}

func (d *Dump) ecr(t testing.TB, _ *Registries, _ string, c connection, now func() time.Time) *issuertest.Server {
	aws := ecrtest.New(t)
	aws.SetNow(now)
	conn := aws.Connection()
	d.Replace(c.Settings["access_key_id"], conn.Settings["access_key_id"])
	d.Replace(c.Secrets["secret_access_key"], conn.Secrets["secret_access_key"].Reveal())
	return aws.Server
}

// gitea starts a server that can list the tokens of an account, and delete one by
// its ID. Other tests use a real Gitea.
func (d *Dump) gitea(t testing.TB, r *Registries, name string, _ connection, _ func() time.Time) *issuertest.Server {
	var mu sync.Mutex
	tokens := map[string]string{} // names by path
	for _, m := range d.credentialsOf(name) {
		tokens[fmt.Sprintf("/api/v1/users/%s/tokens/%s", m.For["user"], m.ID)] = m.Name
	}
	r.living = append(r.living, func() (names []string) {
		mu.Lock()
		defer mu.Unlock()
		for _, name := range tokens {
			names = append(names, name)
		}
		return names
	})
	return issuertest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasSuffix(req.URL.Path, "/tokens") && req.Method == http.MethodGet {
			listTokens(w, req, tokens)
			return
		}
		if _, there := tokens[req.URL.Path]; !there || req.Method != http.MethodDelete {
			http.Error(w, `{"message":"not found"}`, http.StatusNotFound)
			return
		}
		delete(tokens, req.URL.Path)
		w.WriteHeader(http.StatusNoContent)
	}))
}

// listTokens answers with the tokens below the path of a request, in one page.
func listTokens(w http.ResponseWriter, req *http.Request, tokens map[string]string) {
	type token struct {
		ID   int64  `json:"id"`
		Name string `json:"name"`
	}
	list := []token{}
	for path, name := range tokens {
		id, below := strings.CutPrefix(path, req.URL.Path+"/")
		if number, err := strconv.ParseInt(id, 10, 64); below && err == nil {
			list = append(list, token{number, name})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Total-Count", strconv.Itoa(len(list)))
	_ = json.NewEncoder(w).Encode(list)
}

// sharedRef is a credential of a shared role. Its target is the index of one that the
// entry has, from schema version 3 on.
type sharedRef struct {
	CredentialRef
	Target *int `json:"target"`
}

// Credentials returns all credentials of the dump, by name.
func (d *Dump) Credentials() map[string]CredentialRef {
	all := map[string]CredentialRef{}
	for key, value := range d.Storage {
		var shared struct {
			Targets []map[string]string `json:"targets"`
			Current struct {
				Minted sharedRef `json:"minted"`
			} `json:"current"`
			Retired []sharedRef `json:"retired"`
		}
		var leased CredentialRef
		switch {
		case strings.HasPrefix(key, "shared/"):
			mustDecode(value, &shared)
		case strings.HasPrefix(key, "leases/"):
			mustDecode(value, &leased)
		}
		for _, m := range append(shared.Retired, shared.Current.Minted) {
			if m.Target != nil {
				m.For = shared.Targets[*m.Target]
			}
			all[m.Name] = m.CredentialRef
		}
		all[leased.Name] = leased
	}
	for _, m := range d.walData("credential") {
		all[m.Name] = m
	}
	delete(all, "")
	return all
}

func (d *Dump) credentialsOf(connection string) []CredentialRef {
	var all []CredentialRef
	for _, m := range d.Credentials() {
		if m.Connection == connection {
			all = append(all, m)
		}
	}
	return all
}

// walData returns the data of the write-ahead entries of a kind.
func (d *Dump) walData(kind string) []CredentialRef {
	var all []CredentialRef
	for key, value := range d.Storage {
		if strings.HasPrefix(key, "wal/") {
			var entry struct {
				Kind string        `json:"type"`
				Data CredentialRef `json:"data"`
			}
			if mustDecode(value, &entry); entry.Kind == kind {
				all = append(all, entry.Data)
			}
		}
	}
	return all
}

// setID changes the ID of a credential wherever it is stored.
func (d *Dump) setID(m CredentialRef, id string) {
	text := func(id string) string { return fmt.Sprintf(`"name":%q,"id":%q`, m.Name, id) }
	d.replaceStored(text(m.ID), text(id))
}

func mustDecode(value Value, into any) {
	if err := json.Unmarshal([]byte(value), into); err != nil {
		panic(err) // it is stored JSON
	}
}
