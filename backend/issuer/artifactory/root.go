// SPDX-License-Identifier: MPL-2.0

package artifactory

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

// claims is what an access token says of itself.
type claims struct {
	ID       string   `json:"jti"`
	Subject  string   `json:"sub"`
	Scope    string   `json:"scp"`
	Audience audience `json:"aud"`
}

// audience is a list of service IDs, joined by spaces as in a request. Older versions
// have a string in place of a list.
type audience string

// UnmarshalJSON implements [json.Unmarshaler].
func (a *audience) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*a = audience(one)
		return nil
	}
	var list issuer.List[string]
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	*a = audience(strings.Join(list, " "))
	return nil
}

// errNoClaims is about a token that does not say what it may do.
var errNoClaims = errors.New("a reference token does not say which rights it has; write the access token itself to the connection, which begins with eyJ")

// claimsOf reads an access token, a JWT. Its signature is not of interest: the JFrog
// Platform checks it, and who writes the connection can write any other token.
func claimsOf(token dockerconfig.Secret) (claims, error) {
	var c claims
	parts := strings.Split(token.Reveal(), ".")
	if len(parts) != 3 {
		return c, errNoClaims
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil || json.Unmarshal(payload, &c) != nil || c.ID == "" || userIn(c.Subject) == "" || c.Scope == "" {
		return claims{}, errNoClaims
	}
	return c, nil
}

// PrepareRoot implements [issuer.RootRotator]: it creates a second token of the same user,
// with the same scope, audience and length of life. It does not use JFrog's refresh
// tokens, because a refresh ends the old token in the answer that has the new one.
func (t *tokens) PrepareRoot(ctx context.Context, name string) (issuer.Root, error) {
	old, err := claimsOf(t.token)
	if err != nil {
		return issuer.Root{}, issuer.Refusedf("%s", err)
	}
	me, err := t.self(ctx)
	if err != nil {
		return issuer.Root{}, err
	}
	listed, err := t.withID(ctx, old)
	switch {
	case err != nil:
		return issuer.Root{}, err
	case me.ID != old.ID || len(listed) == 0:
		return issuer.Root{}, issuer.Refusedf("the token is not in the list of tokens, so that it could not be revoked once it was replaced; create one that ends later, or never, and write it to the connection")
	}
	wanted := newToken{Username: me.user(), Scope: old.Scope, Audience: string(old.Audience), Description: name}
	if me.Expiry > 0 {
		lifetime := time.Duration(min(max(me.Expiry-me.IssuedAt, 1), maxSeconds)) * time.Second
		wanted.ExpiresIn = wholeSeconds(max(lifetime, t.shortest))
		wanted.ForceRevocable = true
	}
	created, err := t.create(ctx, wanted)
	if err != nil {
		return issuer.Root{}, err
	}
	return issuer.Root{Secrets: issuer.Secrets{fieldToken: created.AccessToken.Secret}}, nil
}

// withID returns the ID of the token with claims, if it is listed.
func (t *tokens) withID(ctx context.Context, of claims) ([]string, error) {
	// Before it could filter by ID, JFrog ignored that filter.
	filter := url.Values{"username": {userIn(of.Subject)}, "token_id": {of.ID}}
	return t.ids(ctx, filter, func(one tokenInfo) bool { return one.ID == of.ID })
}

// ActivateRoot implements [issuer.RootRotator]. A token works from its creation on.
func (*tokens) ActivateRoot(context.Context, issuer.Root) error { return nil }

// DiscardRoot implements [issuer.RootRotator].
func (t *tokens) DiscardRoot(ctx context.Context, name string) error {
	return issuer.EndListed(ctx, func(ctx context.Context) ([]string, error) { return t.Find(ctx, nil, name) }, t.delete)
}

// RetireRoot implements [issuer.RootRotator]. The old token has ended if the new one may
// list it, and does not.
func (t *tokens) RetireRoot(ctx context.Context, root issuer.Root) error {
	old, err := claimsOf(root.Secrets[fieldToken])
	if err != nil {
		return issuer.Refusedf("%s", err)
	}
	err = issuer.EndListed(ctx, func(ctx context.Context) ([]string, error) {
		ids, err := t.withID(ctx, old)
		switch {
		case err != nil || len(ids) > 0:
		case userIn(old.Subject) == t.username:
			_, err = t.self(ctx)
		default:
			err = t.checkAdmin(ctx)
		}
		return ids, err
	}, t.delete)
	if issuer.StatusOf(err) == http.StatusBadRequest {
		err = issuer.Hint(err, "JFrog revokes a token that ends within revocable-expiry-threshold, 6 hours by default, only if it was created with force_revocable; the token "+redact.Untrusted(old.ID)+" ends by itself")
	}
	return err
}
