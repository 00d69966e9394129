// SPDX-License-Identifier: MPL-2.0

package artifactory

import (
	"cmp"
	"context"
	"math"
	"net/http"
	"net/url"
	"slices"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

// newToken is the request for a token.
type newToken struct {
	Username    string `json:"username"`
	Scope       string `json:"scope"`
	Audience    string `json:"audience,omitempty"`
	Description string `json:"description"` // our name for it
	ExpiresIn   int64  `json:"expires_in"`  // seconds; 0: no end

	// ForceRevocable makes a token revocable that ends before JFrog's
	// revocable-expiry-threshold, 6 hours by default.
	ForceRevocable bool `json:"force_revocable"`
}

// createdToken is the answer to it.
type createdToken struct {
	ID          string         `json:"token_id"`
	AccessToken receivedSecret `json:"access_token"`
	ExpiresIn   int64          `json:"expires_in"` // seconds; absent: no end
}

// receivedSecret is a secret that JSON of an answer can fill.
type receivedSecret struct{ dockerconfig.Secret }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (r *receivedSecret) UnmarshalText(text []byte) error {
	r.Secret = dockerconfig.NewSecret(string(text))
	return nil
}

// maxSeconds is the longest life of a token whose end a [time.Duration] can hold.
const maxSeconds = int64(math.MaxInt64 / time.Second)

// Mint implements [issuer.Issuer]. The user name of a token is its own name, unless the
// connection has one. JFrog makes a transient user of it.
func (t *tokens) Mint(ctx context.Context, r issuer.Request) (issuer.Credential, error) {
	now := t.now()
	username := cmp.Or(t.username, r.Name)
	created, err := t.create(ctx, newToken{
		Username:       username,
		Scope:          scopeFor(r.For),
		Description:    r.Name,
		ExpiresIn:      wholeSeconds(max(r.ExpiresAt.Sub(now), t.shortest)),
		ForceRevocable: true,
	})
	if err != nil {
		return issuer.Credential{}, err
	}
	return issuer.Credential{
		ID:        created.ID,
		Username:  username,
		Password:  created.AccessToken.Secret,
		ExpiresAt: created.expiresAt(now),
	}, nil
}

// wholeSeconds rounds a duration up.
func wholeSeconds(d time.Duration) int64 {
	return int64((d + time.Second - 1) / time.Second)
}

// expiresAt returns when a token ends that was asked for at a time.
func (c createdToken) expiresAt(asked time.Time) time.Time {
	if c.ExpiresIn == 0 {
		return time.Time{}
	}
	return asked.Add(time.Duration(min(c.ExpiresIn, maxSeconds)) * time.Second).UTC()
}

// create creates a token that can be found and revoked.
func (t *tokens) create(ctx context.Context, wanted newToken) (createdToken, error) {
	var created createdToken
	err := t.do(ctx, call{
		method: http.MethodPost, path: "/tokens", in: wanted, read: readJSON(&created),
		forbidden: "only an administrator can create such tokens, or tokens that live this long; " + needsAdmin,
	})
	switch {
	case err != nil:
		return createdToken{}, err
	case created.ID == "" || created.AccessToken.Reveal() == "" || created.ExpiresIn < 0:
		return createdToken{}, issuer.Malformedf("the answer has no token")
	}
	// JFrog answers with a token that ends soon and does not store it.
	ids, err := t.named(ctx, wanted.Description)
	switch {
	case err != nil: // whatever it says of the list, the token is there
		err = issuer.Indefinite(err, "a token was created, and is revoked in some minutes, because the list in which it must be could not be read")
	case !slices.Contains(ids, created.ID):
		err = issuer.Malformedf("the token that was created is not in the list of tokens, so that it could not be revoked; it ends by itself in %s; write to the connection a %s that is not below persistent-expiry-threshold of the JFrog Platform", time.Duration(min(created.ExpiresIn, maxSeconds))*time.Second, fieldMinTokenTTL)
	}
	return created, err
}

// named returns the IDs of the tokens with exactly this name that the connection's token
// may list.
func (t *tokens) named(ctx context.Context, name string) ([]string, error) {
	return t.ids(ctx, url.Values{"description": {name}}, func(one tokenInfo) bool { return one.Description == name })
}

func (t *tokens) ids(ctx context.Context, filter url.Values, match func(tokenInfo) bool) ([]string, error) {
	listed, err := t.list(ctx, filter, match)
	var ids []string
	for _, one := range listed {
		if one.ID != "" {
			ids = append(ids, one.ID)
		}
	}
	return ids, err
}

// Find implements [issuer.Issuer]. That a list has no such token proves something only
// if the connection's token may list those of others.
func (t *tokens) Find(ctx context.Context, _ issuer.Settings, name string) ([]string, error) {
	ids, err := t.named(ctx, name)
	if err == nil && len(ids) == 0 {
		err = t.checkReach(ctx)
	}
	return ids, err
}

// checkReach returns an error unless the connection's token may list all that it has
// minted: as an administrator's, or as one of their common user.
func (t *tokens) checkReach(ctx context.Context) error {
	if t.username == "" {
		return t.checkAdmin(ctx)
	}
	_, err := t.self(ctx)
	return err
}

// self returns the connection's token, which must be of the user that the connection
// names.
func (t *tokens) self(ctx context.Context) (tokenInfo, error) {
	me, err := t.me(ctx)
	if err == nil && t.username != "" && me.user() != t.username {
		err = issuer.Refusedf("the token is of the user %s, and %s of the connection is %s", redact.Untrusted(me.user()), fieldUsername, t.username)
	}
	return me, err
}

// Revoke implements [issuer.Issuer].
func (t *tokens) Revoke(ctx context.Context, target issuer.Settings, name, id string) error {
	find := func(ctx context.Context) ([]string, error) { return t.Find(ctx, target, name) }
	return issuer.EndListed(ctx, issuer.Narrowed(find, id), t.delete)
}

func (t *tokens) delete(ctx context.Context, id string) error {
	return t.do(ctx, call{
		method: http.MethodDelete, path: "/tokens/" + url.PathEscape(id),
		forbidden: "only an administrator can revoke tokens of others; " + needsAdmin,
	})
}

// Check implements [issuer.Issuer].
func (t *tokens) Check(ctx context.Context) (issuer.Status, error) {
	me, err := t.self(ctx)
	if err == nil && t.username == "" {
		err = t.checkAdmin(ctx)
	}
	if err != nil {
		return issuer.Status{}, err
	}
	status := issuer.Status{Identity: redact.Untrusted(me.user())}
	if me.Expiry > 0 {
		status.ExpiresAt = time.Unix(me.Expiry, 0).UTC()
	}
	if _, err := claimsOf(t.token); err != nil {
		status.Warnings = append(status.Warnings, "rotate-root cannot replace the token: "+err.Error())
	}
	return status, nil
}
