// SPDX-License-Identifier: MPL-2.0

package issuer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// The fields that [WithIdentityToken] adds, named as in HashiCorp's own engines.
const (
	FieldIdentityTokenAudience = "identity_token_audience"
	FieldIdentityTokenTTL      = "identity_token_ttl"
)

// WithIdentityToken adds to the fields of a type those with which a connection needs no
// root credential: it proves who it is by a plugin identity token of Vault Enterprise. The
// engine checks the values. The type exchanges the token of [Connection.IdentityToken] at
// its vendor, and sends it to no address that a field of the connection names.
func WithIdentityToken(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	fields[FieldIdentityTokenAudience] = &framework.FieldSchema{
		Type:        framework.TypeString,
		Description: "Audience of plugin identity tokens, with which the connection proves who it is, in place of a key. Needs Vault Enterprise.",
	}
	fields[FieldIdentityTokenTTL] = &framework.FieldSchema{
		Type:        framework.TypeDurationSecond,
		Description: "How long a plugin identity token is valid: 1m to 24h. Default with identity_token_audience: 1h.",
	}
	return fields
}

// TakesIdentityToken reports whether a connection proves who it is by plugin identity
// tokens.
func (c Connection) TakesIdentityToken() bool { return c.Settings[FieldIdentityTokenAudience] != "" }

// TwoRootCredentials returns the error of [Type.New] for a connection that has an audience
// and the fields of another root credential, which are named.
func TwoRootCredentials(fields ...string) error {
	return fmt.Errorf("%s: must be left out with %s, because a connection proves who it is in one way; to change it to identity tokens, write %s= (empty) in the same request",
		FieldIdentityTokenAudience, strings.Join(fields, " and "), strings.Join(fields, "= and "))
}

// ErrNothingToRotate is the error of rotate-root for a connection without a root
// credential.
var ErrNothingToRotate = errors.New("the connection has no root credential to replace: it proves who it is by plugin identity tokens, and Vault makes a new one for each call")

// withheld returns a function that gives the tokens of ask, and keeps them out of the
// errors of the client.
func (c *Client) withheld(ask func(context.Context) (dockerconfig.Secret, error)) func(context.Context) (dockerconfig.Secret, error) {
	return func(ctx context.Context) (dockerconfig.Secret, error) {
		if ask == nil {
			return dockerconfig.Secret{}, Refusedf("there is no plugin identity token outside of Vault")
		}
		token, err := ask(ctx)
		if err == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.secrets = append(c.secrets, token)
		}
		return token, err
	}
}
