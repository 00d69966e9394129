// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/vault/sdk/helper/pluginidentityutil"
	"github.com/hashicorp/vault/sdk/helper/pluginutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

const (
	// identityTokenTTL is the default of HashiCorp's own engines.
	identityTokenTTL = time.Hour

	minIdentityTokenTTL = time.Minute
	maxIdentityTokenTTL = 24 * time.Hour

	maxAudience = 600 // bytes; Azure accepts no more

	// identityTokenTimeout caps the wait for Vault.
	identityTokenTimeout = 10 * time.Second

	maxVaultMessage = 300 // runes of Vault's own error
)

// errNoIdentityTokens is the error of a server that has no plugin identity tokens.
var errNoIdentityTokens = errors.New("this server gives plugins no identity tokens, which needs Vault Enterprise")

// completeIdentityToken checks the fields of [issuer.WithIdentityToken] in settings, and
// fills in the default. A time to live without an audience is dropped, unless the write
// names it.
func (in input) completeIdentityToken(settings issuer.Settings) error {
	const field, ttlField = issuer.FieldIdentityTokenAudience, issuer.FieldIdentityTokenTTL
	audience := settings[field]
	if audience == "" {
		if in.has(ttlField) && settings[ttlField] != "" {
			return refusef("%s: must be left out without %s", ttlField, field)
		}
		delete(settings, ttlField)
		return nil
	}
	if len(audience) > maxAudience || strings.ContainsFunc(audience, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) }) {
		return refusef("%s: must be the audience that the other side expects of the token, without white space, and of at most %d bytes", field, maxAudience)
	}
	if settings[ttlField] == "" {
		settings[ttlField] = strconv.Itoa(int(identityTokenTTL.Seconds()))
	}
	if ttl := ttlOfIdentityToken(settings); ttl < minIdentityTokenTTL || ttl > maxIdentityTokenTTL {
		return refusef("%s: must be from 1m to 24h; the default is 1h", ttlField)
	}
	return nil
}

// ttlOfIdentityToken returns 0 for a text that is no number.
func ttlOfIdentityToken(settings issuer.Settings) time.Duration {
	seconds, _ := strconv.ParseInt(settings[issuer.FieldIdentityTokenTTL], 10, 32)
	return time.Duration(seconds) * time.Second
}

// identityToken asks Vault for a plugin identity token, which it does not keep.
func (b *backend) identityToken(ctx context.Context, settings issuer.Settings) (dockerconfig.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, identityTokenTimeout)
	defer cancel()
	answer, err := b.System().GenerateIdentityToken(ctx, &pluginutil.IdentityTokenRequest{
		Audience: settings[issuer.FieldIdentityTokenAudience],
		TTL:      ttlOfIdentityToken(settings),
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return dockerconfig.Secret{}, errors.New("no identity token came from Vault in time")
	case lacksIdentityTokens(err):
		return dockerconfig.Secret{}, errNoIdentityTokens
	case err != nil:
		said := redact.Truncate(redact.Clean(status.Convert(err).Message()), maxVaultMessage)
		return dockerconfig.Secret{}, fmt.Errorf("no identity token came from Vault: %s", said)
	case answer == nil || answer.Token.Token() == "":
		return dockerconfig.Secret{}, errors.New("the identity token that came from Vault is empty")
	}
	return dockerconfig.NewSecret(answer.Token.Token()), nil
}

// lacksIdentityTokens reports whether an error says that the server has no plugin identity
// tokens. The community edition of Vault says so in a text, because errors lose their
// types between Vault and a plugin. OpenBao does not know the call.
func lacksIdentityTokens(err error) bool {
	return err != nil && (status.Code(err) == codes.Unimplemented ||
		strings.Contains(err.Error(), pluginidentityutil.ErrPluginWorkloadIdentityUnsupported.Error()))
}

// identityTokens returns [issuer.Connection.IdentityToken] of a connection. That Vault gives
// no token has changed nothing at the registry, so its error is definite.
func (b *backend) identityTokens(settings issuer.Settings) func(context.Context) (dockerconfig.Secret, error) {
	if settings[issuer.FieldIdentityTokenAudience] == "" {
		return nil
	}
	return func(ctx context.Context) (dockerconfig.Secret, error) {
		token, err := b.identityToken(ctx, settings)
		if err != nil {
			return dockerconfig.Secret{}, issuer.Refusedf("%s", err)
		}
		return token, nil
	}
}

// tryIdentityToken refuses new fields of [issuer.WithIdentityToken] on a server that gives
// no tokens, and names what to use instead. It asks for a token, which it throws away. old
// are the settings before; a connection in which the fields stay as they are can still be
// changed, whatever the server gives.
func (b *backend) tryIdentityToken(ctx context.Context, t issuer.Type, settings, old issuer.Settings) error {
	const field, ttlField = issuer.FieldIdentityTokenAudience, issuer.FieldIdentityTokenTTL
	if settings[field] == "" || settings[field] == old[field] && settings[ttlField] == old[ttlField] {
		return nil
	}
	_, err := b.identityToken(ctx, settings)
	if errors.Is(err, errNoIdentityTokens) {
		var instead []string
		for _, name := range slices.Sorted(maps.Keys(t.ConnectionFields)) {
			if isSecretField(t.ConnectionFields[name]) {
				instead = append(instead, name)
			}
		}
		return refusef("%s: %w; leave it out, and write %s, or let the connection use the identity of the machine or pod that Vault runs on", field, err, enumerated(instead, " or "))
	}
	if err != nil {
		return fieldError(field, err)
	}
	return nil
}
