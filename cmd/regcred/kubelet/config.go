// SPDX-License-Identifier: MPL-2.0

package kubelet

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

const (
	// Program is the name under which the docs install the provider.
	Program = "regcred-credential-provider"

	// defaultMaxCache limits how long the kubelet keeps a pull secret: for so long
	// a new password of a static role may not reach it.
	defaultMaxCache = 5 * time.Minute
)

// config is the file kubelet.yaml.
type config struct {
	client.Settings

	Auth client.Auth `json:"auth"`
	Role roleConfig  `json:"role"`
	Node *nodeConfig `json:"node,omitempty"`

	MaxCacheDuration *metav1.Duration `json:"maxCacheDuration,omitempty"`
	Timeout          *metav1.Duration `json:"timeout,omitempty"`

	path string // where it was read; empty: nowhere
}

// roleConfig says which role a pod reads. The first that gives one counts, in the
// order of the fields.
type roleConfig struct {
	Annotation string `json:"annotation,omitempty"` // of the service account; its value is the role
	Rules      []rule `json:"rules,omitempty"`
	Template   string `json:"template,omitempty"` // with {namespace} and {serviceAccount}
}

// rule gives a role to the pods that it matches. Each field is a text in which
// "*" stands for any characters; an empty one matches all.
type rule struct {
	Namespace      string   `json:"namespace,omitempty"`
	ServiceAccount string   `json:"serviceAccount,omitempty"`
	Images         []string `json:"images,omitempty"`
	Role           string   `json:"role"`
}

// nodeConfig is for requests without a service account's token: those of static
// pods, and all where the kubelet passes no tokens.
type nodeConfig struct {
	Auth client.Auth `json:"auth"`
	Role string      `json:"role"`
}

// parseFlags reads the configuration that the arguments name, and applies the
// environment and the arguments to it, in this order.
func parseFlags(program string, args []string, more func(*flag.FlagSet)) (*config, error) {
	flags, given := newFlags(program)
	if more != nil {
		more(flags)
	}
	switch err := flags.Parse(args); {
	case err != nil:
		return nil, flagFailure(err)
	case flags.NArg() > 0:
		return nil, &client.Failure{What: fmt.Sprintf("arguments: %q is no flag", flags.Arg(0)), Do: "\"regcred help kubelet\" lists them"}
	}
	c := &config{path: given.path}
	if c.path == "" {
		c.path = defaultPath(program)
	}
	switch err := client.LoadFile(c.path, c); {
	case errors.Is(err, fs.ErrNotExist) && given.path == "":
		c.path = ""
	case err != nil && isKubeletsOwn(c.path):
		return nil, &client.Failure{
			What: c.path + " is the kubelet's own file",
			Do:   "name the one with the fields auth and role; \"regcred check kubelet\" takes the kubelet's as -" + configFlag,
		}
	case err != nil:
		return nil, err
	}
	c.ApplyEnvironment()
	for _, set := range given.settings {
		set(c)
	}
	return c, c.check()
}

func flagFailure(err error) error {
	return &client.Failure{What: "arguments: " + err.Error(), Do: "\"regcred help kubelet\" lists them"}
}

// CheckConfig checks the content of a configuration before it is put into place. If
// arguments of the provider complete it, only its form is checked.
func CheckConfig(path string, content []byte, completed bool) error {
	c := &config{}
	if err := client.Decode(path, content, c); err != nil || completed {
		return err
	}
	if err := c.check(); err != nil {
		return &client.Failure{What: path + ": " + client.Line(err)}
	}
	return nil
}

func defaultPath(program string) string {
	return filepath.Join(client.SystemFolder, ConfigName(program))
}

// ConfigName returns the name of the configuration of a program.
func ConfigName(program string) string {
	return "kubelet" + client.Instance(program, Program) + ".yaml"
}

// given are the flags of one run. They are applied after the file was read.
type given struct {
	path     string
	settings []func(*config)
}

func newFlags(program string) (*flag.FlagSet, *given) {
	flags, g := flag.NewFlagSet(program, flag.ContinueOnError), &given{}
	flags.SetOutput(io.Discard)
	flags.StringVar(&g.path, "config", "", "`file` with the configuration (default "+defaultPath(program)+", if it is there)")
	text := func(name, help string, set func(*config, string)) {
		flags.Func(name, help, func(value string) error {
			g.settings = append(g.settings, func(c *config) { set(c, value) })
			return nil
		})
	}
	duration := func(name, help string, set func(*config, *metav1.Duration)) {
		flags.Func(name, help, func(value string) error {
			d, err := time.ParseDuration(value)
			g.settings = append(g.settings, func(c *config) { set(c, &metav1.Duration{Duration: d}) })
			return err
		})
	}
	text("address", "address of Vault", func(c *config, v string) { c.SetAddress(v) })
	text("namespace", "namespace of Vault", func(c *config, v string) { c.Namespace = v })
	text("ca-file", "CA of Vault, a `file` in PEM form", func(c *config, v string) { c.CAFile = v })
	text("tls-server-name", "name in Vault's certificate, if it is not that of the address", func(c *config, v string) { c.TLSServerName = v })
	text("mount", "`path` of the engine (default "+client.DefaultMount+")", func(c *config, v string) { c.Mount = v })
	text("auth-method", "jwt (default), kubernetes or cert", func(c *config, v string) { c.Auth.Method = v })
	text("auth-mount", "`path` of the auth method (default: its name)", func(c *config, v string) { c.Auth.Mount = v })
	text("auth-role", "role of the auth method", func(c *config, v string) { c.Auth.Role = v })
	text("auth-cert-file", "certificate for cert, a `file` in PEM form", func(c *config, v string) { c.Auth.CertFile = v })
	text("auth-key-file", "its key, a `file` in PEM form (default: in the same file)", func(c *config, v string) { c.Auth.KeyFile = v })
	text("role", "role to read: a `template` with {namespace} and {serviceAccount}", func(c *config, v string) { c.Role.Template = v })
	text("role-annotation", "`annotation` of the service account whose value is the role", func(c *config, v string) { c.Role.Annotation = v })
	duration("max-cache-duration", "how long the kubelet may keep a pull secret, at most (default 5m)", func(c *config, d *metav1.Duration) { c.MaxCacheDuration = d })
	duration("timeout", "for all that one run does, at most 10s (default)", func(c *config, d *metav1.Duration) { c.Timeout = d })
	return flags, g
}

// WriteFlags describes the flags, with those of "regcred check kubelet" if asked.
func WriteFlags(out io.Writer, check bool) error {
	flags, _ := newFlags(Program)
	if check {
		(&question{}).flags(flags)
	}
	var text strings.Builder
	flags.SetOutput(&text)
	flags.PrintDefaults()
	_, err := io.WriteString(out, text.String())
	return err
}

func (c *config) check() error {
	if c.Auth.Method == "" {
		c.Auth.Method = client.MethodJWT
	}
	if err := c.Auth.Check("auth"); err != nil {
		return err
	}
	if c.Node != nil {
		if c.Node.Auth.Method != client.MethodCert {
			return bad("node.auth.method", "must be cert: without a token of a service account, a node has only its certificate")
		}
		if err := c.Node.Auth.Check("node.auth"); err != nil {
			return err
		}
		if client.CheckRole(c.Node.Role) != nil {
			return bad("node.role", "must be the name of a role")
		}
	}
	if c.Role.Annotation == "" && len(c.Role.Rules) == 0 && c.Role.Template == "" && c.Node == nil {
		return bad("role", "nothing says which role to read: give annotation, rules or template")
	}
	for i, r := range c.Role.Rules {
		if client.CheckRole(r.Role) != nil {
			return bad(fmt.Sprintf("role.rules[%d].role", i), "must be the name of a role")
		}
		for _, image := range r.Images {
			path := strings.LastIndex(image, "/")
			if strings.Contains(image, "://") || strings.Contains(image, "@") || path > 0 && strings.Contains(image[path:], ":") {
				return bad(fmt.Sprintf("role.rules[%d].images", i), fmt.Sprintf("%q matches no image: the kubelet passes it without scheme, tag and digest, such as docker.io/library/nginx", image))
			}
		}
	}
	if err := checkTemplate(c.Role.Template); err != nil {
		return err
	}
	if d := c.MaxCacheDuration; d == nil {
		c.MaxCacheDuration = &metav1.Duration{Duration: defaultMaxCache}
	} else if d.Duration < 0 {
		return bad("maxCacheDuration", "must not be negative")
	}
	if d := c.Timeout; d == nil {
		c.Timeout = &metav1.Duration{Duration: client.MaxTimeout}
	} else if d.Duration <= 0 || d.Duration > client.MaxTimeout {
		return bad("timeout", fmt.Sprintf("must be more than 0 and at most %s", client.MaxTimeout))
	}
	return nil
}

func bad(field, why string) error { return &client.Failure{What: field + ": " + why} }

const namespaceField, accountField = "{namespace}", "{serviceAccount}"

// checkTemplate refuses a template whose roles can be no names, and one that can
// give two service accounts the same role: with {namespace}-{serviceAccount},
// account c of namespace a-b would read the role of account b-c of namespace a.
func checkTemplate(template string) error {
	if template == "" {
		return nil
	}
	filled := strings.NewReplacer(namespaceField, "a", accountField, "b").Replace(template)
	if client.CheckRole(filled) != nil {
		return bad("role.template", "must be the name of a role, in which {namespace} and {serviceAccount} may stand")
	}
	namespace, account := strings.Index(template, namespaceField), strings.Index(template, accountField)
	if strings.Count(template, namespaceField) > 1 || strings.Count(template, accountField) > 1 {
		return bad("role.template", "must not have {namespace} or {serviceAccount} twice")
	}
	if namespace < 0 || account < 0 {
		return nil
	}
	between := template[min(namespace+len(namespaceField), account+len(accountField)):max(namespace, account)]
	if !strings.ContainsAny(between, "._") {
		return bad("role.template", `must have "." or "_" between {namespace} and {serviceAccount}: with anything else, two service accounts can have the same role`)
	}
	return nil
}
