// SPDX-License-Identifier: MPL-2.0

// Package gar mints access tokens for Google's Artifact Registry. Such a token is a
// password of the user name oauth2accesstoken. It acts as a service account, is valid
// for at most an hour (12 hours if the organisation allows it), and cannot be ended
// early.
package gar

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	fieldKey      = "service_account_key"
	fieldAccount  = "service_account"
	fieldLifetime = "token_lifetime"
	fieldAccess   = "access"

	accessPull = "pull"
	accessPush = "push"

	// defaultLifetime and longestLifetime are the limits of generateAccessToken in the
	// reference of the IAM Service Account Credentials API: without and with the
	// constraint iam.allowServiceAccountCredentialLifetimeExtension.
	defaultLifetime = time.Hour
	longestLifetime = 12 * time.Hour

	// shortestLifetime is asked for where a shorter one would do. The reference names
	// no minimum. For the same call, Google's client libraries accept no less in the
	// token_lifetime_seconds of an external account.
	shortestLifetime = 10 * time.Minute
)

// Type returns the type gar.
func Type() issuer.Type {
	return issuer.Type{
		Name:             "gar",
		Description:      "Mints access tokens of service accounts for Google Artifact Registry, which are good for at most an hour.",
		ConnectionFields: issuer.WithIdentityToken(connectionFields()),
		RoleFields:       roleFields(),
		URLOptional:      true,
		Can:              func(issuer.Connection) issuer.Abilities { return issuer.Abilities{} },
		Target:           target,
		New:              open,
	}
}

func connectionFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldKey: {
			Type:         framework.TypeString,
			Description:  "Key of a Google service account, as JSON. Without it and without identity_token_audience, Vault's own Google identity is used: the file that GOOGLE_APPLICATION_CREDENTIALS names on Vault's machine (workload identity federation, or a key), or else the metadata server.",
			DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
		},
		fieldAccount: {
			Type:        framework.TypeString,
			Description: "E-mail address of the service account that every credential of the connection acts as. Empty: each role names one.",
		},
		fieldLifetime: {
			Type:        framework.TypeString,
			Description: "Longest life of a token that Google allows: 1h (default), or up to 12h for service accounts in the organisation policy constraint iam.allowServiceAccountCredentialLifetimeExtension.",
		},
	}
}

func roleFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldAccount: {
			Type:        framework.TypeString,
			Description: "E-mail address of the service account that the credential acts as, if the connection names none.",
		},
		fieldAccess: {
			Type:        framework.TypeString,
			Description: "What the credential may do: pull (default), or push, which includes pull.",
		},
	}
}

// scopes are the OAuth scopes of a credential. For Artifact Registry, Google documents
// those of Cloud Storage: read-only to pull, read-write to push (access scopes in
// "Deploying to Compute Engine").
var scopes = map[string]string{
	accessPull: "https://www.googleapis.com/auth/devstorage.read_only",
	accessPush: "https://www.googleapis.com/auth/devstorage.read_write",
}

// tokens is the issuer of a connection.
type tokens struct {
	conn issuer.Connection
	key  *rootKey // nil: Vault's own identity
}

func open(c issuer.Connection) (issuer.Issuer, error) {
	if err := checkConnection(c); err != nil {
		return nil, err
	}
	t := &tokens{conn: c}
	if text := c.Secrets[fieldKey].Reveal(); text != "" {
		key, err := parseKey(text)
		if err != nil {
			return nil, err
		}
		t.key = &key
	}
	return t, nil
}

var (
	// hostPattern matches the hosts of Artifact Registry, and of Container Registry,
	// which Artifact Registry serves today.
	hostPattern = regexp.MustCompile(`^(?:[a-z0-9-]+-docker\.pkg\.dev|(?:(?:asia|eu|us)\.)?gcr\.io)$`)

	// accountPattern matches the e-mail addresses of service accounts. IDs in numbers
	// are left out: allowed_targets compares names letter by letter.
	accountPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*@[a-z0-9][a-z0-9.-]*\.gserviceaccount\.com$`)

	// providerPattern matches the name of a provider of workload identity federation, as
	// Google writes it, and as the default audience of its tokens.
	providerPattern = regexp.MustCompile(`^(?:https:)?//iam\.googleapis\.com/projects/[0-9]+/locations/global/workloadIdentityPools/[a-z0-9-]{4,32}/providers/[a-z0-9-]{4,32}$`)
)

func checkConnection(c issuer.Connection) error {
	for _, key := range c.Registries {
		if host := key.Host(); c.URL == "" && !hostPattern.MatchString(host) {
			return fmt.Errorf("registry: must be a host of Artifact Registry, such as europe-docker.pkg.dev or gcr.io, not %q; for a host name of your own in front of it, also set url", host)
		}
	}
	if c.TakesIdentityToken() {
		switch {
		case c.Secrets[fieldKey].Reveal() != "":
			return issuer.TwoRootCredentials(fieldKey)
		case c.URL != "":
			return errors.New("url: must be left out with identity_token_audience, because identity tokens are sent to Google alone")
		case !providerPattern.MatchString(c.Settings[issuer.FieldIdentityTokenAudience]):
			return errors.New("identity_token_audience: must be the provider of workload identity federation, such as https://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/vault/providers/vault, with the number of the project")
		}
	}
	if c.URL != "" && c.Secrets[fieldKey].Reveal() == "" {
		// Whoever may write connections could have it sent to a server of theirs.
		return errors.New("url: must be left out without service_account_key, because tokens of Vault's own identity are sent to Google alone")
	}
	if account := c.Settings[fieldAccount]; account != "" && !accountPattern.MatchString(account) {
		return errWrongAccount
	}
	_, err := lifetimeOf(c)
	return err
}

var errWrongAccount = errors.New("service_account: must be the e-mail address of a service account, such as puller@acme.iam.gserviceaccount.com, in lower case")

// lifetimeOf returns the longest life of the tokens of a connection.
func lifetimeOf(c issuer.Connection) (time.Duration, error) {
	text := c.Settings[fieldLifetime]
	if text == "" {
		return defaultLifetime, nil
	}
	lifetime, err := time.ParseDuration(text)
	if seconds, notSeconds := strconv.ParseInt(text, 10, 32); notSeconds == nil {
		lifetime, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || lifetime < defaultLifetime || lifetime > longestLifetime || lifetime%time.Second != 0 {
		return 0, errors.New("token_lifetime: must be from 1h to 12h, such as 12h; more than 1h needs the organisation policy constraint iam.allowServiceAccountCredentialLifetimeExtension")
	}
	return lifetime, nil
}

// target returns the service account that a role's credential acts as. Where the
// connection names one, it is not among the role's settings: a role follows it.
func target(c issuer.Connection, fields issuer.Settings) (issuer.Target, error) {
	if err := checkConnection(c); err != nil {
		return issuer.Target{}, err
	}
	lifetime, err := lifetimeOf(c)
	if err != nil {
		return issuer.Target{}, err
	}
	access := fields[fieldAccess]
	switch access {
	case "":
		access = accessPull
	case accessPull, accessPush:
	default:
		return issuer.Target{}, errors.New("access: must be pull or push (push includes pull)")
	}
	t := issuer.Target{Settings: issuer.Settings{fieldAccess: access}, MaxLifetime: lifetime}
	account, fixed := fields[fieldAccount], c.Settings[fieldAccount]
	switch {
	case fixed != "" && account != "" && account != fixed:
		return issuer.Target{}, fmt.Errorf("service_account: must be left out, because the connection names the service account of all its roles, %s", fixed)
	case fixed != "":
		account = fixed
	case account == "":
		return issuer.Target{}, errors.New("service_account: must be the e-mail address of the service account that the credential acts as, such as puller@acme.iam.gserviceaccount.com, because the connection names none")
	case !accountPattern.MatchString(account):
		return issuer.Target{}, errWrongAccount
	default:
		t.Settings[fieldAccount] = account
	}
	t.Names = []string{account}
	return t, nil
}

// accountOf returns the service account of a target.
func (t *tokens) accountOf(role issuer.Settings) string {
	if account := t.conn.Settings[fieldAccount]; account != "" {
		return account
	}
	return role[fieldAccount]
}

// endpoint returns the URL of a Google API, which the connection's url replaces.
func (t *tokens) endpoint(google, path string) string {
	if t.conn.URL != "" {
		return t.conn.URL + path
	}
	return "https://" + google + path
}
