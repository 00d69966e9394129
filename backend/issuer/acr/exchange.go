// SPDX-License-Identifier: MPL-2.0

package acr

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// exchangeUser is the user name of a refresh token (docs/AAD-OAuth.md of Azure/acr).
const exchangeUser = "00000000-0000-0000-0000-000000000000"

// exchange mints refresh tokens of a registry.
type exchange struct{ registry }

// Check obtains a refresh token, and throws it away. It declares how long such a token
// lives.
func (x *exchange) Check(ctx context.Context) (issuer.Status, error) {
	_, lifetime, err := x.obtain(ctx)
	if err != nil {
		return issuer.Status{}, err
	}
	return issuer.Status{
		Identity: x.conn.Settings[fieldClient],
		Declared: issuer.Settings{fieldLifetime: lifetime.Truncate(time.Minute).String()},
	}, nil
}

// Mint implements [issuer.Issuer].
func (x *exchange) Mint(ctx context.Context, _ issuer.Request) (issuer.Credential, error) {
	minted, _, err := x.obtain(ctx)
	return minted, err
}

// Find returns nothing, because a registry has no list of its refresh tokens.
func (x *exchange) Find(context.Context, issuer.Settings, string) ([]string, error) { return nil, nil }

// Revoke does nothing, because a registry has no call that ends a refresh token.
func (x *exchange) Revoke(context.Context, issuer.Settings, string, string) error { return nil }

// obtain exchanges an Entra token for a refresh token of the registry.
func (x *exchange) obtain(ctx context.Context) (minted issuer.Credential, lifetime time.Duration, err error) {
	c, token, err := x.signIn(ctx, registryScope)
	if err != nil {
		return issuer.Credential{}, 0, err
	}
	form := url.Values{
		"grant_type": {"access_token"}, "service": {x.host()},
		"tenant": {x.conn.Settings[fieldTenant]}, "access_token": {token},
	}
	var answer struct {
		Token string `json:"refresh_token"`
	}
	if err := c.post(ctx, x.endpoint(x.host())+"/oauth2/exchange", form, &answer); err != nil {
		return issuer.Credential{}, 0, err
	}
	begins, ends, ok := livesFrom(answer.Token)
	if !ok {
		// Without an end, it would count as one that never ends.
		return issuer.Credential{}, 0, issuer.Malformedf("the answer to the exchange has no refresh token with an end")
	}
	return issuer.Credential{Username: exchangeUser, Password: dockerconfig.NewSecret(answer.Token), ExpiresAt: ends}, ends.Sub(begins), nil
}

// livesFrom returns when a JWT was issued and when it ends.
func livesFrom(token string) (begins, ends time.Time, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return begins, ends, false
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	var claims struct {
		Issued  int64 `json:"iat"`
		Expires int64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(text, &claims) != nil || claims.Expires <= claims.Issued || claims.Issued <= 0 {
		return begins, ends, false
	}
	return time.Unix(claims.Issued, 0), time.Unix(claims.Expires, 0), true
}
