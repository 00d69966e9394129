// SPDX-License-Identifier: MPL-2.0

package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/acr"
	"vault-plugin-secrets-regcred/backend/issuer/artifactory"
	"vault-plugin-secrets-regcred/backend/issuer/dockerhub"
	"vault-plugin-secrets-regcred/backend/issuer/ecr"
	"vault-plugin-secrets-regcred/backend/issuer/gar"
	"vault-plugin-secrets-regcred/backend/issuer/gitea"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab"
	"vault-plugin-secrets-regcred/backend/issuer/harbor"
	"vault-plugin-secrets-regcred/backend/issuer/httpbroker"
	"vault-plugin-secrets-regcred/backend/issuer/quay"
	"vault-plugin-secrets-regcred/backend/registry"
)

var types = []issuer.Type{
	acr.Type(), artifactory.Type(), dockerhub.Type(), ecr.Type(), gar.Type(),
	gitea.Type(), gitlab.Type(), harbor.Type(), httpbroker.Type(), quay.Type(),
}

// settings are what is tried.
type settings struct {
	kind       issuer.Type
	conn       issuer.Connection
	role       issuer.Settings
	repository string // to pull from; may be empty
	cas        *x509.CertPool
}

// parseSettings reads lines of the form FIELD=value. The fields are those of a connection
// and of a role of the type; role.FIELD is for one that both have. repository names what
// to pull. Empty lines, and lines that begin with '#', are left out. A value @FILE is the
// content of a file, and $NAME that of a variable of the environment: a secret has one of
// these forms. No error repeats a value.
func parseSettings(kind, text string) (settings, error) {
	s := settings{conn: issuer.Connection{Settings: issuer.Settings{}, Secrets: issuer.Secrets{}}, role: issuer.Settings{}}
	var names []string
	for _, t := range types {
		if names = append(names, t.Name); t.Name == kind {
			s.kind = t
		}
	}
	if s.kind.Name == "" {
		return s, fmt.Errorf("TYPE must be one of %s", strings.Join(names, ", "))
	}
	registries := []string{s.kind.DefaultRegistry}
	s.conn.URL = s.kind.DefaultURL
	for number, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		field, value, found := strings.Cut(line, "=")
		if !found {
			return s, fmt.Errorf("line %d of the settings must have the form FIELD=value", number+1)
		}
		stored := strings.HasPrefix(value, "@") || strings.HasPrefix(value, "$")
		value, err := fetched(value)
		switch {
		case err != nil:
		case field == "url":
			s.conn.URL, err = parseURL(value)
		case field == "registry":
			registries = strings.Split(elements(value), ",")
		case field == "repository":
			s.repository, err = registry.ParseRepository(value)
		case field == "ca_pem":
			if s.cas, err = x509.SystemCertPool(); err == nil && !s.cas.AppendCertsFromPEM([]byte(value)) {
				err = errors.New("must be @FILE, of a file with certificates in PEM form")
			}
		default:
			err = s.set(field, value, stored)
		}
		if err != nil {
			return s, fmt.Errorf("%s: %w", field, err)
		}
	}
	for _, text := range registries {
		key, _, err := dockerconfig.ParseKey(text)
		if err != nil {
			return s, fmt.Errorf("registry: %w", err)
		}
		s.conn.Registries = append(s.conn.Registries, key)
	}
	if s.conn.URL == "" && !s.kind.URLOptional {
		return s, errors.New("url: must be the URL of the registry's API")
	}
	return s, nil
}

// set sets a field of the type. stored says that the value came from a file or the
// environment.
func (s *settings) set(field, value string, stored bool) error {
	name, ofRole := strings.CutPrefix(field, "role.")
	schema, into := s.kind.ConnectionFields[name], s.conn.Settings
	if schema == nil || ofRole {
		schema, into = s.kind.RoleFields[name], s.role
	}
	switch {
	case schema == nil:
		known := slices.Concat([]string{"url", "registry", "ca_pem", "repository"}, slices.Sorted(maps.Keys(s.kind.ConnectionFields)), slices.Sorted(maps.Keys(s.kind.RoleFields)))
		return fmt.Errorf("type %s has no such field; it has %s", s.kind.Name, strings.Join(known, ", "))
	case schema.DisplayAttrs != nil && schema.DisplayAttrs.Sensitive:
		if !stored {
			return fmt.Errorf("is a secret, so it must not be written here: write %s=@FILE, or %s=$NAME for a variable of the environment", field, field)
		}
		secret, _, err := dockerconfig.ParsePassword(value)
		s.conn.Secrets[name] = secret
		return err
	case schema.Type == framework.TypeCommaStringSlice:
		value = elements(value)
	}
	if value != "" {
		into[name] = value
	}
	return nil
}

// fetched returns the content of a file for @FILE, and a variable's for $NAME.
func fetched(value string) (string, error) {
	if path, isFile := strings.CutPrefix(value, "@"); isFile {
		text, err := os.ReadFile(path)
		if failed := (*os.PathError)(nil); errors.As(err, &failed) {
			err = fmt.Errorf("reading the file that it names: %w", failed.Err) // without its name
		}
		return string(text), err
	}
	if name, isVariable := strings.CutPrefix(value, "$"); isVariable {
		text, set := os.LookupEnv(name)
		if !set {
			return "", errors.New("names a variable of the environment that is not set")
		}
		return text, nil
	}
	return value, nil
}

// elements normalises a list of elements that are separated by commas.
func elements(list string) string {
	var all []string
	for element := range strings.SplitSeq(list, ",") {
		all = append(all, strings.TrimSpace(element))
	}
	return strings.Join(all, ",")
}

func parseURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		u.Scheme != "https" && (u.Scheme != "http" || !registry.IsLoopback(u.Hostname())) {
		return "", errors.New("must be a URL such as https://registry.example.com, without a user, a query or a fragment; plain http is for this machine only")
	}
	return u.Scheme + "://" + strings.ToLower(u.Host) + strings.TrimRight(u.EscapedPath(), "/"), nil
}
