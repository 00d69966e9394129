// SPDX-License-Identifier: MPL-2.0

package importer

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/ryanuber/go-glob"
	"k8s.io/apimachinery/pkg/util/validation"

	"vault-plugin-secrets-regcred/backend/redact"
	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

// The kinds of sources.
const (
	kindKV      = "kv"
	kindSecrets = "secrets"
)

// What has sources become one role.
const (
	joinContent = "content" // that they are the same
	joinName    = "name"    // that they would have the same name: one holds the registries of all
	joinNone    = "none"
)

// options are what the arguments say.
type options struct {
	kind string
	path string // kv: of the engine, or of a folder or secret in it

	mount      string
	name       string   // template of a role's name
	sharedName string   // of a role that stands for sources with different names
	join       string   // what has sources become one role
	overwrite  []string // globs of roles
	apply      bool
	json       bool
	verbose    bool
	rules      rules

	fields  []string // kv: as the flag was given; the flags' own errors would repeat it
	layouts []layout // kv

	kubectl    string // secrets: program
	context    string
	namespaces []string // empty: all
	selector   string
}

// rules are the file that -rules names.
type rules struct {
	// Sources are for KV secrets by their path below the given one, and for Secrets
	// as namespace/name. The first that matches counts.
	Sources []sourceRule `json:"sources,omitempty"`
	// Roles are for roles by their name and one of their registries. The first that
	// matches counts.
	Roles []roleRule `json:"roles,omitempty"`
}

type sourceRule struct {
	Match string `json:"match"` // "*" stands for any characters
	Skip  bool   `json:"skip,omitempty"`
	Name  string `json:"name,omitempty"` // template; goes before -name

	used bool
}

type roleRule struct {
	Match            string   `json:"match,omitempty"`    // empty: all
	Registry         string   `json:"registry,omitempty"` // as in image names; empty: all
	AllowedBundles   []string `json:"allowed_bundles,omitempty"`
	VerifyRepository string   `json:"verify_repository,omitempty"`

	used bool
}

// parse reads the arguments behind "regcred import". The path may stand before or
// after the flags.
func parse(args []string) (*options, error) {
	if len(args) == 0 || args[0] != kindKV && args[0] != kindSecrets {
		return nil, usage(`import takes "kv" and a path, or "secrets"`)
	}
	o := &options{kind: args[0]}
	rulesFile, output := "", ""
	flags := newFlags(o, &rulesFile, &output)
	var rest []string
	for args = args[1:]; ; {
		if err := flags.Parse(args); err != nil {
			return nil, usage("arguments: " + redact.Clean(err.Error()))
		}
		if args = flags.Args(); len(args) == 0 {
			break
		}
		rest, args = append(rest, args[0]), args[1:]
	}
	switch {
	case o.kind == kindKV && len(rest) != 1:
		return nil, usage(`"import kv" takes one path, such as kv or kv/team-a`)
	case o.kind == kindSecrets && len(rest) > 0:
		return nil, usage(`"import secrets" takes flags only, such as -namespace`)
	case output != "text" && output != "json":
		return nil, usage("-o must be text or json")
	case !slices.Contains([]string{joinContent, joinName, joinNone}, o.join):
		return nil, usage("-join must be content, name or none")
	}
	o.json = output == "json"
	if o.kind == kindKV {
		o.path = rest[0]
		for _, text := range o.fields {
			l, err := parseLayout(text)
			if err != nil {
				return nil, bad("-fields", err.Error())
			}
			o.layouts = append(o.layouts, l)
		}
		o.layouts = append(o.layouts, usualLayouts...)
	}
	if rulesFile != "" {
		if err := client.LoadFile(rulesFile, &o.rules); err != nil {
			var f *client.Failure
			if errors.As(err, &f) && strings.Contains(f.Do, "configuration.md") {
				f.Do = "the fields are in docs/client/import.md"
			}
			return nil, err
		}
	}
	return o, o.check()
}

func newFlags(o *options, rulesFile, output *string) *flag.FlagSet {
	flags := flag.NewFlagSet("import", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	name, shared := "{path}", "{path}"
	if o.kind == kindSecrets {
		name, shared = "{namespace}-{name}", "{registry}-{name}"
	}
	flags.BoolVar(&o.apply, "apply", false, "carry the plan out")
	flags.StringVar(&o.name, "name", name, "name of a role: a `template` with "+strings.Join(o.placeholders(), ", "))
	flags.StringVar(&o.sharedName, "shared-name", shared, "`template` for a role of several sources whose names differ; it takes the first of them")
	flags.StringVar(&o.join, "join", joinContent, "`what` has sources become one role: the same content, or the same name if their registries do not clash, or none")
	flags.StringVar(rulesFile, "rules", "", "`file` with names, exceptions, allowed_bundles and verify_repository")
	flags.Func("overwrite", "change existing roles whose name matches this `glob` to what the source has; can be repeated", appendTo(&o.overwrite))
	flags.StringVar(&o.mount, "mount", "", "`path` of the engine (default "+client.DefaultMount+")")
	flags.StringVar(output, "o", "text", "`form` of the output: text or json")
	flags.BoolVar(&o.verbose, "v", false, "list unchanged roles and every source as well")
	if o.kind == kindKV {
		flags.Func("fields", "`mapping` of the secrets' fields, such as registry=server,username=user,password=token; can be repeated", appendTo(&o.fields))
		return flags
	}
	flags.StringVar(&o.context, "context", "", "`context` of the kubeconfig (default: the current one)")
	flags.Func("namespace", "read the Secrets of this `namespace` only; can be repeated", appendTo(&o.namespaces))
	flags.StringVar(&o.selector, "selector", "", "read the Secrets with these `labels` only, such as team=a,!copied")
	flags.StringVar(&o.kubectl, "kubectl", "kubectl", "`program` that asks the cluster")
	return flags
}

func appendTo(list *[]string) func(string) error {
	return func(value string) error {
		*list = append(*list, value)
		return nil
	}
}

// WriteFlags describes the flags of both kinds.
func WriteFlags(out io.Writer) error {
	var text strings.Builder
	for _, kind := range []string{kindKV, kindSecrets} {
		flags := newFlags(&options{kind: kind}, new(string), new(string))
		flags.SetOutput(&text)
		fmt.Fprintf(&text, "\nFlags of \"import %s\":\n", kind)
		flags.PrintDefaults()
	}
	_, err := io.WriteString(out, text.String())
	return err
}

func usage(what string) error {
	return &client.Failure{What: what, Do: "see \"regcred help import\""}
}

// placeholders are what a template may have.
func (o *options) placeholders() []string {
	if o.kind == kindSecrets {
		return []string{"{namespace}", "{name}", "{registry}"}
	}
	return []string{"{path}", "{folder}", "{name}", "{registry}"}
}

var placeholder = regexp.MustCompile(`\{[^{}]*\}?`)

func (o *options) check() error {
	templates := map[string]string{"-name": o.name, "-shared-name": o.sharedName}
	for i := range o.rules.Sources {
		r := &o.rules.Sources[i]
		where := fmt.Sprintf("sources[%d]", i)
		switch {
		case r.Match == "":
			return bad(where+".match", "must say which sources it is for; \"*\" stands for any characters")
		case r.Skip == (r.Name != ""):
			return bad(where, "must have either skip: true or a name")
		case r.Name != "":
			templates[where+".name"] = r.Name
		}
	}
	for i := range o.rules.Roles {
		if r := &o.rules.Roles[i]; r.AllowedBundles == nil && r.VerifyRepository == "" {
			return bad(fmt.Sprintf("roles[%d]", i), "must have allowed_bundles or verify_repository")
		}
	}
	for where, template := range templates {
		if template == "" {
			return bad(where, "must not be empty")
		}
		for _, p := range placeholder.FindAllString(template, -1) {
			if !slices.Contains(o.placeholders(), p) {
				return bad(where, fmt.Sprintf("%q is not a placeholder; there are %s", redact.Truncate(redact.Clean(p), 40), strings.Join(o.placeholders(), ", ")))
			}
		}
	}
	for _, namespace := range o.namespaces {
		if len(validation.IsDNS1123Label(namespace)) > 0 {
			return bad("-namespace", fmt.Sprintf("%q is not the name of a namespace; repeat the flag for several, and leave it out for all", redact.Truncate(redact.Clean(namespace), 64)))
		}
	}
	for _, l := range o.layouts {
		if err := l.check(); err != nil {
			return err
		}
	}
	return nil
}

func bad(where, why string) error { return &client.Failure{What: where + ": " + why} }

// rule returns the first rule for a source; nil if there is none.
func (r *rules) source(name string) *sourceRule {
	for i := range r.Sources {
		if glob.Glob(r.Sources[i].Match, name) {
			r.Sources[i].used = true
			return &r.Sources[i]
		}
	}
	return nil
}

// role returns the first rule for a role; nil if there is none.
func (r *rules) role(name string, registries []string) *roleRule {
	for i := range r.Roles {
		rule := &r.Roles[i]
		if rule.Match != "" && !glob.Glob(rule.Match, name) {
			continue
		}
		if rule.Registry != "" && !slices.ContainsFunc(registries, func(registry string) bool { return glob.Glob(rule.Registry, registry) }) {
			continue
		}
		rule.used = true
		return rule
	}
	return nil
}

// unused returns the rules that were for nothing.
func (r *rules) unused() (where []string) {
	for i, rule := range r.Sources {
		if !rule.used {
			where = append(where, fmt.Sprintf("sources[%d] (%s)", i, redact.Truncate(redact.Clean(rule.Match), 64)))
		}
	}
	for i, rule := range r.Roles {
		if !rule.used {
			where = append(where, fmt.Sprintf("roles[%d] (%s)", i, redact.Truncate(redact.Clean(rule.Match+" "+rule.Registry), 64)))
		}
	}
	return where
}
