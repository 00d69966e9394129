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

// tokenShape matches every access token. Another password may match it too, but none
// of [newPassword].
var tokenShape = regexp.MustCompile(`^[0-9a-f]{40}$`)

func hasTokenShape(s dockerconfig.Secret) bool { return tokenShape.MatchString(s.Reveal()) }

// newPassword returns a password with 260 random bits that meets every setting of
// Gitea's PASSWORD_COMPLEXITY. It is shorter than 72 bytes, because bcrypt ignores
// the rest.
func newPassword() dockerconfig.Secret {
	return dockerconfig.NewSecret(rand.Text() + rand.Text() + "-a1")
}

// PrepareRoot implements [issuer.RootRotator]. For a token, it creates a second one.
// For a password, it only generates one, which [gitea.ActivateRoot] sets.
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
			return nil // the new password is set already
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
			// The API requires both, so they are sent unchanged. It refuses an empty
			// login name. Accounts of Gitea's own have none, and Gitea ignores the
			// one sent for them.
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

// candidateTokens returns the account's tokens that may be the one used as the
// password, because they have the same last eight characters. There is none if the
// password is not a token, and a second one with a probability of 1 in 2^32.
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

// isToken reports whether the password is a token: Gitea accepts no password in
// place of a token.
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
