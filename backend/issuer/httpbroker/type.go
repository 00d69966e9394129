// SPDX-License-Identifier: MPL-2.0

// Package httpbroker is the type http, for registries that have no type of their own. A
// connection speaks one of two ways to mint: to a broker that the user runs, by the
// protocol regcred-broker/v1 (docs/connections/http.md), or to any URL that answers with
// a Docker config, or with a user name and a password.
package httpbroker

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	protocolV1 = "regcred-broker/v1"
	simple     = "simple" // no protocol: a URL that answers with a credential

	fieldProtocol    = "protocol"
	fieldToken       = "token"
	fieldTokenHeader = "token_header"
	fieldUsername    = "username"
	fieldPassword    = "password"
	fieldScopes      = "scopes"

	// What the registry declares.
	fieldOperations  = "operations"
	fieldMaxLifetime = "max_lifetime"
)

// Type returns the type http.
func Type() issuer.Type {
	return issuer.Type{
		Name:             "http",
		Description:      "Asks a broker that you run, or any URL that answers with a Docker config or a user name and password.",
		ConnectionFields: connectionFields(),
		DeclaredFields: map[string]*framework.FieldSchema{
			fieldOperations:  {Type: framework.TypeCommaStringSlice, Description: "What the broker can do, as it said when the connection was last checked."},
			fieldMaxLifetime: {Type: framework.TypeString, Description: "How long a credential of the broker works at most, as it said when the connection was last checked."},
		},
		RoleFields: map[string]*framework.FieldSchema{
			fieldScopes: {
				Type:        framework.TypeCommaStringSlice,
				Description: "What the credential is for, in the words of the broker, such as names of projects. The broker limits the credential to them. Empty: what the broker gives to everybody.",
			},
		},
		WholeURL: true,
		Can:      can,
		Target:   target,
		New:      open,
	}
}

func connectionFields() map[string]*framework.FieldSchema {
	text := func(description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: framework.TypeString, Description: description}
	}
	secret := func(description string) *framework.FieldSchema {
		field := text(description)
		field.DisplayAttrs = &framework.DisplayAttributes{Sensitive: true}
		return field
	}
	return map[string]*framework.FieldSchema{
		fieldProtocol:    text("What the url speaks: " + protocolV1 + " (default), or " + simple + ": it answers with a credential."),
		fieldToken:       secret("Token that authenticates the engine."),
		fieldTokenHeader: text("HTTP header that has the token. Default: Authorization, with Bearer before the token."),
		fieldUsername:    text("User name of the root credential, with password in place of token."),
		fieldPassword:    secret("Password of that user."),

		fieldMethod:       text("protocol=simple: HTTP method, GET (default), POST, PUT or OPTIONS."),
		fieldQuery:        text("protocol=simple: query of the URL, such as expiry_seconds={seconds}. It is no secret. " + placeholderHelp),
		fieldBody:         text("protocol=simple: JSON that is sent, such as {\"minutes\":{minutes}}. It is no secret. " + placeholderHelp),
		fieldLifetime:     text("protocol=simple: how long a credential works, such as 12h; where the request names an end, the longest that it may name."),
		fieldDockerConfig: text("protocol=simple: JSON pointer to the Docker config in the answer. Default: the whole answer."),
		fieldUserPointer:  text("protocol=simple: JSON pointer to the user name in the answer, in place of a Docker config."),
		fieldPassPointer:  text("protocol=simple: JSON pointer to the password in the answer."),
		fieldEndPointer:   text("protocol=simple: JSON pointer to the end of the credential in the answer: RFC 3339, or Unix seconds."),
		fieldLeftPointer:  text("protocol=simple: JSON pointer to the number of seconds for which the credential works."),
	}
}

func isSimple(c issuer.Connection) bool { return c.Settings[fieldProtocol] == simple }

// can returns what the broker declared. What was never asked is taken to be able to do
// everything, so that nothing that it mints is forgotten.
func can(c issuer.Connection) issuer.Abilities {
	if isSimple(c) {
		return issuer.Abilities{}
	}
	if c.Declared[fieldOperations] == "" {
		return issuer.Abilities{Revoke: true, Find: true}
	}
	ops := operationsOf(c.Declared)
	return issuer.Abilities{Revoke: ops.has(opRevoke), Find: ops.has(opFind) && ops.has(opRevoke)}
}

// scopePattern leaves out what could make a scope that is compared letter by letter mean
// more than it says: white space, wildcards, escapes.
var scopePattern = regexp.MustCompile(`^[0-9A-Za-z@_+-][0-9A-Za-z@_+.:/-]{0,199}$`)

const maxScopes = 100

// target checks the scopes of a role. What a broker takes for one is its own affair, as
// long as it compares them letter by letter, as allowed_targets does.
func target(c issuer.Connection, fields issuer.Settings) (issuer.Target, error) {
	t := issuer.Target{Settings: issuer.Settings{}, Names: []string{"*"}}
	if isSimple(c) {
		if fields[fieldScopes] != "" {
			return issuer.Target{}, errors.New("scopes: must be left out, because the connection has protocol=simple: its url gives the same to every role")
		}
		lifetime, err := parseLifetime(c.Settings[fieldLifetime])
		t.MaxLifetime = lifetime
		return t, err
	}
	if limit, err := time.ParseDuration(c.Declared[fieldMaxLifetime]); err == nil {
		t.MaxLifetime = limit
	}
	if fields[fieldScopes] == "" {
		return t, nil
	}
	scopes := strings.Split(fields[fieldScopes], ",")
	if len(scopes) > maxScopes {
		return issuer.Target{}, fmt.Errorf("scopes: must be at most %d, not %d", maxScopes, len(scopes))
	}
	for i, scope := range scopes {
		switch {
		case !scopePattern.MatchString(scope) || strings.Contains(scope, "..") || strings.Contains(scope, "//"):
			return issuer.Target{}, fmt.Errorf("scopes: entry %d must be at most 200 letters, digits or any of @_+.:/- (neither '..' nor '//'), such as team/app", i+1)
		case slices.Contains(scopes[:i], scope):
			return issuer.Target{}, fmt.Errorf("scopes: names %q twice", scope)
		}
	}
	t.Settings[fieldScopes], t.Names = fields[fieldScopes], scopes
	return t, nil
}

// open checks all fields of a connection.
func open(c issuer.Connection) (issuer.Issuer, error) {
	auth, err := newAuthentication(c)
	if err != nil {
		return nil, err
	}
	switch protocol := c.Settings[fieldProtocol]; protocol {
	case simple:
		return newAnswering(c, auth)
	case "", protocolV1:
		for _, field := range simpleFields {
			if c.Settings[field] != "" {
				return nil, fmt.Errorf("%s: is for protocol=%s; write protocol=%s if the url answers with a credential, or leave this field out for a broker", field, simple, simple)
			}
		}
		return &broker{conn: c, auth: auth}, nil
	default:
		return nil, fmt.Errorf("protocol: must be %s (the default), or %s for a URL that answers with a credential; this engine speaks no other", protocolV1, simple)
	}
}
