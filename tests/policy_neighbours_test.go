// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/tests/servers"
)

// policyText is a policy that the docs or the examples show.
type policyText struct {
	where string // the file, and the name of the policy where the page gives one
	name  string
	text  string
}

var (
	heredoc    = regexp.MustCompile(`(?s)vault policy write (\S+) - <<POLICY\n(.*?)\nPOLICY`)
	policyPath = regexp.MustCompile(`(?s)path "([^"]+)"\s*\{\s*capabilities\s*=\s*\[([^\]]*)\]`)
	// What Vault fills in for whoever logs in. The tests of the client have Vault do it.
	policyTemplate = regexp.MustCompile(`\{\{identity\.[^{}]+\}\}`)
	glob           = regexp.MustCompile(`allowed_(?:roles|bundles)=('[^']*'|\S+)`)
)

// allNames are the policies that name every role or connection on purpose, with
// the paths that do.
var allNames = map[string][]string{
	"examples/policies/registry-admin.hcl": {
		"regcred/connections/*", "regcred/roles/*", "regcred/rotate/*", "regcred/verify/*", "sys/leases/revoke-prefix/regcred/creds/*",
	},
	"examples/policies/auditor.hcl":                          {"regcred/connections/*", "regcred/roles/*"},
	"examples/policies/sync-tool.hcl":                        {"regcred/creds/+/kubernetes"},
	"examples/import/policy.hcl":                             {"regcred/roles/*", "regcred/creds/*"},
	"docs/client/import.md":                                  {"regcred/roles/*", "regcred/creds/*"},
	"docs/connections/README.md: registry-owner":             {"regcred/connections/*"},
	"docs/installation.md: all-but-production":               {"regcred/creds/*"},
	"docs/migrating-from-kv-templates.md: sync-pull-secrets": {"regcred/creds/+/kubernetes"},
}

// TestPoliciesDoNotReachANeighbour gives a token each policy of the docs and
// examples, and tries names that look like those in the policy: team-alpha-prod
// beside team-a-*, my_app2 beside my_app. Every request for them is refused.
func TestPoliciesDoNotReachANeighbour(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	policies := shownPolicies(t)
	if len(policies) < 25 {
		t.Errorf("found %d policies", len(policies))
	}
	for _, p := range policies {
		p.text = policyTemplate.ReplaceAllString(p.text, "team-a")
		if err := v.Client.Sys().PutPolicy("shown", p.text); err != nil {
			t.Errorf("%s: %v", p.where, err)
			continue
		}
		token, err := v.NewToken("shown")
		if err != nil {
			t.Fatal(err)
		}
		var named int
		for _, match := range policyPath.FindAllStringSubmatch(p.text, -1) {
			path, capabilities := match[1], match[2]
			if strings.Contains(capabilities, `"read"`) && strings.HasPrefix(path, servers.Mount+"/") {
				asked := strings.NewReplacer("*", "x", "+", "x").Replace(path)
				if status := statusOf(t, v.Addr, token, "GET", asked); status == http.StatusForbidden {
					t.Errorf("%s: path %q must allow a read of %s", p.where, path, asked)
				}
			}
			if strings.Contains(capabilities, `"deny"`) || slices.Contains(allNames[p.where], path) {
				continue
			}
			name, found := nameIn(path)
			if !found {
				continue
			}
			named++
			for _, neighbour := range neighbours(name) {
				if ownsPrefixOf(p.text, neighbour) {
					continue
				}
				for _, r := range requestsFor(neighbour) {
					if coveredByAllNames(p.where, r.path) {
						continue
					}
					if status := statusOf(t, v.Addr, token, r.method, r.path); status != http.StatusForbidden {
						t.Errorf("%s: the policy names %q, and %s %s is not refused: status %d", p.where, path, r.method, r.path, status)
					}
				}
			}
		}
		if named == 0 && allNames[p.where] == nil && !strings.Contains(p.text, "sys/plugins/") {
			t.Errorf("%s: found no name in the policy:\n%s", p.where, p.text)
		}
	}
}

// shownPolicies are the policies in examples/ and in the blocks of the docs.
func shownPolicies(t *testing.T) []policyText {
	t.Helper()
	var policies []policyText
	root := servers.Repo()
	err := filepath.WalkDir(filepath.Join(root, "examples"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".hcl" {
			return err
		}
		content, err := os.ReadFile(path)
		if where, _ := filepath.Rel(root, path); policyPath.Match(content) {
			policies = append(policies, policyText{where, "", string(content)})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages(t) {
		for _, b := range blocksOf(t, page) {
			text := strings.ReplaceAll("\n"+b.text, "\n> ", "\n")
			if written := heredoc.FindAllStringSubmatch(text, -1); written != nil {
				for _, w := range written {
					policies = append(policies, policyText{page + ": " + w[1], w[1], w[2]})
				}
			} else if policyPath.MatchString(text) {
				policies = append(policies, policyText{page, "", text})
			}
		}
	}
	return policies
}

// nameIn returns the name of a role or connection in the path of a policy, with
// the "*" at its end if it has one.
func nameIn(path string) (name string, found bool) {
	path = strings.TrimPrefix(path, "sys/leases/revoke-prefix/")
	parts := strings.Split(path, "/")
	if len(parts) < 3 || parts[0] != servers.Mount {
		return "", false
	}
	return parts[2], true
}

// neighbours are names that somebody may have who is not meant.
func neighbours(name string) []string {
	base, isPrefix := strings.CutSuffix(name, "*")
	base = strings.TrimRight(base, "-_.")
	var names []string
	if base == "" || strings.Contains(base, "+") { // every name, which allNames has to say
		return []string{"another"}
	}
	for _, ending := range []string{"lpha-prod", "2", "b", ".prod", "_prod"} {
		names = append(names, base+ending)
	}
	if !isPrefix {
		names = append(names, base+"-prod")
	}
	return append(names, base[:len(base)-1], strings.ToUpper(base)+"-prod", "x"+base)
}

// ownsPrefixOf reports whether a policy names a prefix on purpose, one that ends in
// a separator, with which the name begins: team-a-* or team-a.* beside team-a.
func ownsPrefixOf(policy, name string) bool {
	return slices.ContainsFunc(policyPath.FindAllStringSubmatch(policy, -1), func(match []string) bool {
		own, found := nameIn(match[1])
		prefix, isPrefix := strings.CutSuffix(own, "*")
		return found && isPrefix && (strings.HasSuffix(prefix, "-") || strings.HasSuffix(prefix, ".")) && strings.HasPrefix(name, prefix)
	})
}

// requestsFor are all requests for a role, or a connection, of that name.
func requestsFor(name string) []asked {
	var requests []asked
	for _, path := range []string{"creds/" + name, "creds/" + name + "/kubernetes", "creds/" + name + "/docker", "connections/" + name + "/check"} {
		requests = append(requests, asked{"GET", path, nil})
	}
	for _, kind := range []string{"roles/", "connections/"} {
		for _, method := range []string{"GET", "PUT", "PATCH", "DELETE"} {
			requests = append(requests, asked{method, kind + name, nil})
		}
	}
	for _, path := range []string{"verify/" + name, "rotate/" + name, "connections/" + name + "/rotate-root"} {
		requests = append(requests, asked{"PUT", path, nil})
	}
	for i := range requests {
		requests[i].path = servers.Mount + "/" + requests[i].path
	}
	return append(requests, asked{"PUT", "sys/leases/revoke-prefix/" + servers.Mount + "/creds/" + name, nil})
}

func coveredByAllNames(where, path string) bool {
	return slices.ContainsFunc(allNames[where], func(all string) bool {
		pattern := strings.NewReplacer(`\*`, ".*", `\+`, "[^/]+").Replace(regexp.QuoteMeta(all))
		return regexp.MustCompile("^" + pattern + "$").MatchString(path)
	})
}

// TestPolicyNamesAreOfOnePolicy keeps a reader of two pages from overwriting the
// policy of one with that of the other.
func TestPolicyNamesAreOfOnePolicy(t *testing.T) {
	t.Parallel()
	first := map[string]policyText{}
	for _, p := range shownPolicies(t) {
		if strings.HasPrefix(p.where, "examples/policies/") {
			p.name = strings.TrimSuffix(filepath.Base(p.where), ".hcl")
		}
		if p.name == "" {
			continue
		}
		// login.md writes the policy of the reader's tool under this name.
		if p.name == "my_app" {
			t.Errorf("%s: the name my_app is that of the tool's policy in docs/consumers/login.md", p.where)
		}
		if other, taken := first[p.name]; taken && other.text != p.text {
			t.Errorf("%s and %s write two policies under one name", other.where, p.where)
		}
		first[p.name] = p
	}
	if len(first) < 10 {
		t.Errorf("found %d named policies", len(first))
	}
}

// TestGlobsEndBeforeASeparator looks at the globs that the docs and examples give
// to allowed_roles and allowed_bundles: team-a* would also be team-alpha's.
func TestGlobsEndBeforeASeparator(t *testing.T) {
	t.Parallel()
	var found int
	for _, page := range pages(t) {
		for _, b := range blocksOf(t, page) {
			for _, match := range glob.FindAllStringSubmatch(b.text, -1) {
				for _, name := range strings.Split(strings.Trim(match[1], "'"), ",") {
					found++
					if base, isPrefix := strings.CutSuffix(name, "*"); isPrefix && base != "" && !strings.HasSuffix(base, "-") && !strings.HasSuffix(base, "_") {
						t.Errorf("%s: %s also covers %s", page, match[0], base+"lpha-prod")
					}
				}
			}
		}
	}
	if found < 10 {
		t.Errorf("found %d names", found)
	}
}
