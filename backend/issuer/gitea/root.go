// SPDX-License-Identifier: MPL-2.0

package gitea

import (
	"cmp"
	"context"
	"crypto/rand"
	"regexp"
	"slices"

	sdk "code.gitea.io/sdk/gitea"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// tokenShape is that of every access token. A password may have it as well, but
// not one by [newPassword].
var tokenShape = regexp.MustCompile(`^[0-9a-f]{40}$`)

func hasTokenShape(s dockerconfig.Secret) bool { return tokenShape.MatchString(s.Reveal()) }

// newPassword returns a password of 260 random bits, with what Gitea's
// PASSWORD_COMPLEXITY can ask for. It is shorter than the 72 bytes of which
// bcrypt takes account.
func newPassword() dockerconfig.Secret {
	return dockerconfig.NewSecret(rand.Text() + rand.Text() + "-a1")
}

// PrepareRoot implements [issuer.RootRotator]. A token gets a second one beside
// it; a password is made up only.
func (g *gitea) PrepareRoot(ctx context.Context, name string) (issuer.Root, error) {
	me, err := g.currentUser(ctx)
	if err != nil {
		return issuer.Root{}, err
	}
	isToken, err := g.isToken(ctx)
	switch {
	case err != nil:
		return issuer.Root{}, err
	case isToken:
		return g.prepareToken(ctx, name)
	case me.SourceID != 0:
		return issuer.Root{}, issuer.Refusedf("Gitea does not keep the password of %s, because an authentication source does: set a new one there and write it to the connection, or use an access token with the scope %s as the password, which rotate-root can replace", me.UserName, scopeWriteUser)
	case !me.IsAdmin:
		return issuer.Root{}, issuer.Refusedf("%s is not a site administrator, and the API lets no one else set a password: set a new one in Gitea (Settings, Account) and write it to the connection, or use an access token with the scope %s as the password, which rotate-root can replace", me.UserName, scopeWriteUser)
	}
	return newRoot(newPassword()), nil
}

func newRoot(password dockerconfig.Secret) issuer.Root {
	return issuer.Root{Secrets: issuer.Secrets{"password": password}}
}

func (g *gitea) prepareToken(ctx context.Context, name string) (issuer.Root, error) {
	own, err := g.candidateTokens(ctx)
	if err != nil {
		return issuer.Root{}, err
	}
	if len(own) != 1 {
		return issuer.Root{}, errAmbiguousToken(own)
	}
	token, err := g.createToken(ctx, g.username, name, own[0].Scopes)
	if err != nil {
		return issuer.Root{}, err
	}
	return newRoot(dockerconfig.NewSecret(token.Token)), nil
}

func errAmbiguousToken(own []*sdk.AccessToken) error {
	return issuer.Refusedf("%d access tokens of the account have the last eight characters of the token used as the password, where exactly 1 is expected; write another access token to the connection, and delete this one in Gitea (Settings, Applications)", len(own))
}

// ActivateRoot implements [issuer.RootRotator].
func (g *gitea) ActivateRoot(ctx context.Context, root issuer.Root) error {
	password := root.Secrets["password"]
	if hasTokenShape(password) {
		return nil
	}
	err := g.setPassword(ctx, password)
	if isRefused(err) {
		renewed := *g
		renewed.password = password
		if _, renewedErr := renewed.currentUser(ctx); renewedErr == nil {
			return nil // it is in force already
		}
	}
	return err
}

func (g *gitea) setPassword(ctx context.Context, password dockerconfig.Secret) error {
	me, err := g.currentUser(ctx)
	if err != nil {
		return err
	}
	_, err = g.call(ctx, g.username, func(c *sdk.Client) (*sdk.Response, error) {
		return c.AdminEditUser(g.username, sdk.EditUserOption{
			// Both must be sent, and so as they are. The API does not take an empty
			// login name, which accounts of Gitea's own have; it is not used with them.
			SourceID:  me.SourceID,
			LoginName: cmp.Or(me.LoginName, me.UserName),
			Password:  password.Reveal(),
		})
	})
	return err
}

// DiscardRoot implements [issuer.RootRotator].
func (g *gitea) DiscardRoot(ctx context.Context, name string) error {
	if !hasTokenShape(g.password) {
		return nil
	}
	tokens, err := g.listTokens(ctx, g.username)
	if err != nil {
		return err
	}
	for _, token := range tokens {
		if token.Name != name {
			continue
		}
		if err := g.deleteToken(ctx, g.username, token.ID); err != nil && !isNotFound(err) {
			return err
		}
	}
	return nil
}

// RetireRoot implements [issuer.RootRotator].
func (g *gitea) RetireRoot(ctx context.Context) error {
	if !hasTokenShape(g.password) {
		return nil
	}
	own, err := g.candidateTokens(ctx)
	switch {
	case isRefused(err):
		return nil
	case err != nil:
		return err
	case len(own) != 1:
		return errAmbiguousToken(own)
	}
	err = g.deleteToken(ctx, g.username, own[0].ID)
	if isRefused(err) || isNotFound(err) {
		return nil
	}
	return err
}

// candidateTokens returns the account's tokens that may be the one that stands in for
// the password: those that end in the same way. All but one are so by a chance
// of one in 2^32; there is none if it is a password.
func (g *gitea) candidateTokens(ctx context.Context) ([]*sdk.AccessToken, error) {
	tokens, err := g.listTokens(ctx, g.username)
	if err != nil || !hasTokenShape(g.password) {
		return nil, err
	}
	secret := g.password.Reveal()
	return slices.DeleteFunc(tokens, func(token *sdk.AccessToken) bool {
		return token.TokenLastEight != secret[len(secret)-8:]
	}), nil
}

// isToken reports whether the password is a token: as one, Gitea accepts no
// password.
func (g *gitea) isToken(ctx context.Context) (bool, error) {
	client, err := g.client(ctx, g.username, transport{secret: g.password})
	if err != nil {
		return false, issuer.Failed(err)
	}
	_, resp, err := client.GetMyUserInfo()
	if err = mapError(resp, err); isRefused(err) {
		return false, nil
	}
	return err == nil, err
}
