// SPDX-License-Identifier: MPL-2.0

package importer

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

// group are sources that become one role.
type group struct {
	name    string
	sources []*source
}

// merge returns the pull secret that has the registries of all sources, or why there
// is none.
func (g group) merge() (docker dockerconfig.Config, clash string) {
	found := map[dockerconfig.Key]dockerconfig.Credential{}
	of := map[dockerconfig.Key]*source{}
	for _, s := range g.sources {
		for _, c := range s.docker.Credentials() {
			other, has := found[c.Registry]
			switch {
			case has && (other.Username != c.Username || !other.Password.Equal(c.Password)):
				return dockerconfig.Config{}, fmt.Sprintf("%s and %s have different credentials for %s", of[c.Registry].name, s.name, c.Registry)
			case other.Email == "":
				found[c.Registry], of[c.Registry] = c, s
			}
		}
	}
	docker, err := dockerconfig.New(slices.Collect(maps.Values(found))...)
	if err == nil {
		err = checkSize(docker)
	}
	if err != nil {
		return dockerconfig.Config{}, "together: " + err.Error()
	}
	return docker, ""
}

// join puts sources together that become one role, and names the roles. A name that
// several groups have is a clash.
func join(o *options, sources []*source) []group {
	type key struct{ content, name string }
	joined := map[key]*group{}
	var order []*group
	for _, s := range sources {
		rule := o.rules.source(s.name)
		if rule != nil && rule.Skip {
			s.leftOut, s.harmless = "a rule says so", true
		}
		if s.leftOut != "" {
			continue
		}
		var k key
		switch {
		case rule != nil && rule.Name != "": // a name that a rule gives is kept
			k.name = s.roleName(rule.Name)
		case o.join != joinContent:
			k.name = s.roleName(o.name)
		}
		if o.join != joinName {
			k.content = s.docker.RevealJSON()
		}
		g := joined[k]
		if g == nil {
			g = &group{name: k.name}
			joined[k] = g
			order = append(order, g)
		}
		g.sources = append(g.sources, s)
	}
	var groups []group
	for _, g := range order {
		if g.name == "" && o.join == joinContent {
			names := map[string]bool{}
			for _, s := range g.sources {
				names[s.roleName(o.name)] = true
			}
			if g.name = g.sources[0].roleName(o.sharedName); len(names) == 1 {
				g.name = slices.Collect(maps.Keys(names))[0]
			}
		}
		groups = append(groups, *g)
	}
	return groups
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// roleName fills in a template, and makes the name of a role of it: what no name may
// have becomes "-". Case is kept, as it counts for roles.
func (s *source) roleName(template string) string {
	registry := "several"
	if keys := s.docker.Keys(); len(keys) == 1 {
		registry = keys[0].Host()
	}
	name := strings.NewReplacer("{path}", s.name, "{folder}", s.place, "{namespace}", s.place, "{name}", s.base, "{registry}", registry).Replace(template)
	name = notInNames.ReplaceAllString(name, "-")
	for strings.Contains(name, "..") {
		name = strings.ReplaceAll(name, "..", ".")
	}
	return strings.Trim(name, "-.")
}

// checkName says why a name cannot be that of a role.
func checkName(name string) string {
	if name == "" {
		return "no name is left of it: a role's name has letters, digits, '_', '-' and '.'; name it with a rule"
	}
	if client.CheckRole(name) != nil {
		return "its role's name would be longer than 200 characters; name it with a rule"
	}
	return ""
}
