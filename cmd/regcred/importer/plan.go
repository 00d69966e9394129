// SPDX-License-Identifier: MPL-2.0

package importer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/ryanuber/go-glob"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

// action is what is done about a role.
type action string

const (
	actionCreate    action = "create"
	actionUpdate    action = "update"    // -overwrite names it
	actionCreated   action = "created"   // by this run
	actionUpdated   action = "updated"   // by this run
	actionUnchanged action = "unchanged" // it has the content already
	actionKept      action = "kept"      // it has other content, and stays as it is
	actionClash     action = "clash"     // sources of other content have the same name
	actionFailed    action = "failed"    // Vault has refused it, or did not get it
)

// planned is a role, and what is done about it.
type planned struct {
	Role             string   `json:"role"`
	Action           action   `json:"action"`
	Why              string   `json:"why,omitempty"`
	Registries       []string `json:"registries"`
	Sources          []string `json:"sources"`
	AllowedBundles   []string `json:"allowed_bundles,omitempty"`   // of a rule
	VerifyRepository string   `json:"verify_repository,omitempty"` // of a rule

	docker    dockerconfig.Config
	sources   []*source
	readable  bool   // the role that there is has a pull secret that can be compared
	same      bool   // and it is this one
	updatedAt string // of the role that there is; empty: there is none
}

// plan is what an import finds, does and has done.
type plan struct {
	From       string      `json:"from"`
	Mount      string      `json:"mount"`
	Applied    bool        `json:"applied"`
	Roles      []*planned  `json:"roles"`
	LeftOut    []leftOut   `json:"left_out"`
	Notes      []note      `json:"notes"`
	Comparison *comparison `json:"comparison,omitempty"`

	o       *options
	sources []*source
}

// leftOut is a source that is no role.
type leftOut struct {
	Source   string `json:"source"`
	Why      string `json:"why"`
	Harmless bool   `json:"harmless"` // it needs nobody's decision
}

// note is a text about some sources.
type note struct {
	Text    string   `json:"text"`
	Sources []string `json:"sources,omitempty"`
}

// makePlan compares the sources with the roles that there are.
func makePlan(ctx context.Context, vault *client.Vault, o *options, from string, sources []*source) (*plan, error) {
	p := &plan{From: from, Mount: vault.Mount(), o: o, sources: sources, Roles: []*planned{}, LeftOut: []leftOut{}, Notes: []note{}}
	byName := map[string][]group{}
	for _, g := range join(o, sources) {
		if why := checkName(g.name); why != "" {
			for _, s := range g.sources {
				s.leaveOut(why)
			}
			continue
		}
		byName[g.name] = append(byName[g.name], g)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		p.Roles = append(p.Roles, newPlanned(o, name, byName[name]))
	}
	names, err := vault.Roles(ctx)
	if err != nil {
		return nil, err
	}
	existing := map[string]bool{}
	for _, name := range names {
		existing[name] = true
	}
	err = each(len(p.Roles), func(i int) error {
		r := p.Roles[i]
		if r.Action == actionClash || !existing[r.Role] {
			return nil
		}
		return r.compareWithRole(ctx, vault, o)
	})
	if err != nil {
		return nil, err
	}
	p.collect()
	return p, nil
}

func newPlanned(o *options, name string, groups []group) *planned {
	r := &planned{Role: name, Action: actionCreate}
	for _, g := range groups {
		r.sources = append(r.sources, g.sources...)
	}
	for _, s := range r.sources {
		for _, key := range s.docker.Keys() {
			r.Registries = append(r.Registries, string(key))
		}
	}
	slices.Sort(r.Registries)
	r.Registries = slices.Compact(r.Registries)
	for _, s := range r.sources {
		r.Sources = append(r.Sources, s.name)
	}
	slices.Sort(r.Sources)
	if len(groups) > 1 {
		r.Why = fmt.Sprintf("%d different pull secrets would have this name", len(groups))
	} else {
		r.docker, r.Why = groups[0].merge()
	}
	if r.Why != "" {
		r.Action = actionClash
		return r
	}
	var imageNames []string
	for _, key := range r.docker.Keys() {
		imageNames = append(imageNames, key.ImageName(), string(key))
	}
	if rule := o.rules.role(name, imageNames); rule != nil {
		r.AllowedBundles, r.VerifyRepository = rule.AllowedBundles, rule.VerifyRepository
	}
	return r
}

// compareWithRole decides about a role that exists. Its passwords are not in roles/,
// so they are compared with what creds/ gives.
func (r *planned) compareWithRole(ctx context.Context, vault *client.Vault, o *options) error {
	role, found, err := vault.Role(ctx, r.Role)
	switch {
	case err != nil:
		return err
	case !found:
		return nil
	case role.Type != "static":
		r.keep("it is a %s role, and an import writes static ones; delete it, or name the sources otherwise", role.Type)
		return nil
	}
	r.updatedAt = role.UpdatedAt
	now, err := vault.Read(ctx, r.Role)
	if err != nil {
		if refusedRead(err) {
			r.keep("it cannot be compared: %s", client.Line(err))
			return nil
		}
		return err
	}
	r.readable = true
	differences := r.differences(role, now.Docker)
	r.same = r.docker.Equal(now.Docker)
	switch {
	case differences == nil:
		r.Action = actionUnchanged
	case slices.ContainsFunc(o.overwrite, func(pattern string) bool { return glob.Glob(pattern, r.Role) }):
		r.Action = actionUpdate
		r.Why = strings.Join(differences, "; ")
		if role.ExpiresAt != "" && !r.same {
			r.Why += "; its expires_at stays " + role.ExpiresAt
		}
	default:
		r.keep("%s; it was last written %s", strings.Join(differences, "; "), role.UpdatedAt)
	}
	return nil
}

// refusedRead reports whether Vault has answered that this role cannot be read.
func refusedRead(err error) bool {
	var f *client.Failure
	return errors.As(err, &f) && slices.Contains([]int{http.StatusBadRequest, http.StatusForbidden, http.StatusInternalServerError, http.StatusBadGateway}, f.Status)
}

func (r *planned) keep(format string, args ...any) {
	r.Action, r.Why = actionKept, fmt.Sprintf(format, args...)
}

// differences says what an existing role has that is not as planned. What the rules
// say nothing of may be anything.
func (r *planned) differences(role client.Role, now dockerconfig.Config) (all []string) {
	has := map[dockerconfig.Key]dockerconfig.Credential{}
	for _, c := range now.Credentials() {
		has[c.Registry] = c
	}
	for _, want := range r.docker.Credentials() {
		got, found := has[want.Registry]
		delete(has, want.Registry)
		switch {
		case !found:
			all = append(all, "it has no "+string(want.Registry))
		case got.Username != want.Username:
			all = append(all, "another user name for "+string(want.Registry))
		case !got.Password.Equal(want.Password):
			all = append(all, "another password for "+string(want.Registry))
		case got.Email != want.Email:
			all = append(all, "another email for "+string(want.Registry))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(has)) {
		all = append(all, "it also has "+string(key))
	}
	if r.AllowedBundles != nil && !sameSet(r.AllowedBundles, role.AllowedBundles) {
		all = append(all, fmt.Sprintf("allowed_bundles is %q, not %q", role.AllowedBundles, r.AllowedBundles))
	}
	if r.VerifyRepository != "" && r.VerifyRepository != role.VerifyRepository {
		all = append(all, fmt.Sprintf("verify_repository is %q, not %q", role.VerifyRepository, r.VerifyRepository))
	}
	return all
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// collect fills in what is left out and the notes.
func (p *plan) collect() {
	texts := map[string][]string{}
	known := map[*source]bool{} // their notes have been read before
	for _, r := range p.Roles {
		for _, s := range r.sources {
			known[s] = r.Action == actionUnchanged && !p.o.verbose
		}
	}
	for _, s := range p.sources {
		if s.leftOut != "" {
			p.LeftOut = append(p.LeftOut, leftOut{s.name, s.leftOut, s.harmless})
			continue
		}
		if known[s] {
			continue
		}
		seen := map[string]bool{}
		for _, text := range s.notes {
			if !seen[text] {
				seen[text] = true
				texts[text] = append(texts[text], s.name)
			}
		}
	}
	folded := map[string][]string{}
	for _, r := range p.Roles {
		lower := strings.ToLower(r.Role)
		folded[lower] = append(folded[lower], r.Role)
	}
	for _, lower := range slices.Sorted(maps.Keys(folded)) {
		if names := folded[lower]; len(names) > 1 {
			p.Notes = append(p.Notes, note{Text: "these are different roles, because case counts: " + few(names)})
		}
	}
	if unused := p.o.rules.unused(); unused != nil {
		p.Notes = append(p.Notes, note{Text: "rules for nothing that was found: " + strings.Join(unused, ", ")})
	}
	for _, text := range slices.Sorted(maps.Keys(texts)) {
		p.Notes = append(p.Notes, note{text, texts[text]})
	}
}

func (p *plan) count(a action) (n int) {
	for _, r := range p.Roles {
		if r.Action == a {
			n++
		}
	}
	return n
}

// refused counts the sources that somebody has to decide about.
func (p *plan) refused() (n int) {
	for _, l := range p.LeftOut {
		if !l.Harmless {
			n++
		}
	}
	return n
}
