// SPDX-License-Identifier: MPL-2.0

package importer

import (
	"context"
	"maps"
	"slices"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

// comparison is what namespaces or folders pull with today, against what they pull
// with from the roles of their sources.
type comparison struct {
	Places      int          `json:"places"` // namespaces or folders
	SamePlaces  int          `json:"same_places"`
	Sources     int          `json:"sources"`
	SameSources int          `json:"same_sources"`
	Differences []difference `json:"differences"`

	Registries     int `json:"registries"` // of all sources, before
	SameRegistries int `json:"same_registries"`
	Respelled      int `json:"respelled"` // of these, under a key that more tools match

	unexpected int // differences of roles that are as planned
}

// difference is one registry that a source pulls with otherwise.
type difference struct {
	Place    string `json:"place"`
	Source   string `json:"source"`
	Role     string `json:"role,omitempty"`
	Registry string `json:"registry"`
	What     string `json:"what"`
}

// compare reads what the roles give now, and compares it with what each source held.
func (p *plan) compare(ctx context.Context, vault *client.Vault) error {
	given := make([]map[dockerconfig.Key]login, len(p.Roles))
	err := each(len(p.Roles), func(i int) error {
		r := p.Roles[i]
		if !r.exists() {
			return nil
		}
		now, err := r.readBack(ctx, vault)
		if err != nil {
			return err
		}
		given[i] = map[dockerconfig.Key]login{}
		for _, c := range now.Docker.Credentials() {
			given[i][c.Registry] = newLogin(c.Username, c.Password.Reveal())
		}
		return nil
	})
	if err != nil {
		return err
	}
	roleOf := map[*source]int{}
	for i, r := range p.Roles {
		for _, s := range r.sources {
			roleOf[s] = i
		}
	}
	c := &comparison{Differences: []difference{}}
	different := map[string]bool{}
	places := map[string]bool{}
	for _, s := range p.sources {
		if s.harmless || len(s.before) == 0 {
			continue
		}
		places[s.place] = true
		c.Sources++
		before := len(c.Differences)
		i, has := roleOf[s]
		switch {
		case !has:
			c.lost(s, "", "is left out")
		case given[i] == nil:
			c.lost(s, p.Roles[i].Role, "there is no role with it")
		default:
			c.source(s, p.Roles[i], given[i])
		}
		if len(c.Differences) > before {
			different[s.place] = true
			continue
		}
		c.SameSources++
	}
	c.Places = len(places)
	c.SamePlaces = c.Places - len(different)
	p.Comparison = c
	return nil
}

// lost notes all registries of a source that has no role.
func (c *comparison) lost(s *source, role, why string) {
	for _, registry := range slices.Sorted(maps.Keys(s.before)) {
		c.Registries++
		// The text may be anything here: it is shown only if it is a registry.
		key, _, err := dockerconfig.ParseKey(registry)
		name := string(key)
		if err != nil || notARegistry(name) {
			name = "?"
		}
		c.Differences = append(c.Differences, difference{s.place, s.name, role, name, "before only: " + why})
	}
}

// A standby of Vault may answer with what was there before a write, for less than a
// second.
const (
	readBackTries = 10
	readBackPause = 200 * time.Millisecond
)

// readBack reads what a role gives.
func (r *planned) readBack(ctx context.Context, vault *client.Vault) (client.PullSecret, error) {
	for try := 1; ; try++ {
		now, err := vault.Read(ctx, r.Role)
		written := r.Action == actionCreated || r.Action == actionUpdated
		if err != nil || !written || try == readBackTries || now.Docker.Equal(r.docker) {
			return now, err
		}
		select {
		case <-ctx.Done():
			return now, ctx.Err()
		case <-time.After(readBackPause):
		}
	}
}

// exists reports whether there is a role that gives something to its sources.
func (r *planned) exists() bool {
	switch r.Action {
	case actionUnchanged, actionCreated, actionUpdated:
		return true
	case actionKept:
		return r.readable
	}
	return false
}

// source compares a source with what its role gives.
func (c *comparison) source(s *source, role *planned, after map[dockerconfig.Key]login) {
	seen := map[dockerconfig.Key]bool{}
	for _, registry := range slices.Sorted(maps.Keys(s.before)) {
		key, _, err := dockerconfig.ParseKey(registry)
		if err != nil {
			continue // no image name has it: it is the session of docker login
		}
		c.Registries++
		seen[key] = true
		now, has := after[key]
		var what string
		switch before := s.before[registry]; {
		case !has:
			what = "before only"
		case before.equal(now), tidied(before).equal(now): // a note of the plan says so
			c.SameRegistries++
			if registry != string(key) {
				c.Respelled++
			}
			continue
		default:
			what = "another credential"
		}
		c.differ(s, role, key, what)
	}
	for _, other := range role.sources { // with which it has been joined
		for _, key := range other.docker.Keys() {
			seen[key] = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(after)) {
		if !seen[key] {
			c.differ(s, role, key, "after only")
		}
	}
}

func (c *comparison) differ(s *source, role *planned, key dockerconfig.Key, what string) {
	if role.Action != actionKept {
		c.unexpected++
	}
	c.Differences = append(c.Differences, difference{s.place, s.name, role.Role, string(key), what})
}

// tidied returns a login as the engine stores it: without a byte order mark, and
// without the newline that a file ends with.
func tidied(l login) login {
	username, _, err := dockerconfig.Tidy(l.username.Reveal())
	if err != nil {
		return l
	}
	password, _, err := dockerconfig.ParsePassword(l.password.Reveal())
	if err != nil {
		return l
	}
	return login{dockerconfig.NewSecret(username), password}
}
