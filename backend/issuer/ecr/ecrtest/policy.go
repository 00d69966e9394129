// SPDX-License-Identifier: MPL-2.0

package ecrtest

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// Statement allows actions on resources. Both may contain '*' and '?'.
type Statement struct{ Actions, Resources []string }

// may reports whether a principal's policies allow an action, and its session policy
// if it has one.
func (p principal) may(action, resource string) bool {
	return allowed(p.allow(), action, resource) && (!p.bound || allowed(p.limit, action, resource))
}

func allowed(statements []Statement, action, resource string) bool {
	return slices.ContainsFunc(statements, func(s Statement) bool {
		return slices.ContainsFunc(s.Actions, func(p string) bool { return matches(strings.ToLower(p), strings.ToLower(action)) }) &&
			slices.ContainsFunc(s.Resources, func(p string) bool { return matches(p, resource) })
	})
}

func matches(pattern, text string) bool {
	quoted := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(pattern))
	return regexp.MustCompile(`^` + quoted + `$`).MatchString(text)
}

// list is one string or several in JSON, as IAM accepts them.
type list []string

func (l *list) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*l = list{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(l))
}

// parsePolicy reads a session policy. wrong says what is wrong with it.
func parsePolicy(text string) (statements []Statement, wrong string) {
	var policy struct {
		Version   string
		Statement []struct {
			Effect           string
			Action, Resource list
		}
	}
	if err := json.Unmarshal([]byte(text), &policy); err != nil {
		return nil, "This policy contains invalid Json"
	}
	if policy.Version != "2012-10-17" || len(policy.Statement) == 0 {
		return nil, "Syntax errors in policy."
	}
	for _, s := range policy.Statement {
		if s.Effect != "Allow" || len(s.Action) == 0 || len(s.Resource) == 0 {
			return nil, "Syntax errors in policy."
		}
		statements = append(statements, Statement{Actions: s.Action, Resources: s.Resource})
	}
	return statements, ""
}
