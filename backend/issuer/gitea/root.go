// SPDX-License-Identifier: MPL-2.0

package gitea

import (
	"cmp"
	"context"
	"crypto/rand"
	"net/http"
	"regexp"

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
	if issuer.IsRefused(err) {
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
	return g.ending(g.username, name).EndNamed(ctx)
}

// RetireRoot implements [issuer.RootRotator]. A password was ended by ActivateRoot. A
// token has ended if it is not in the list that the new root credential reads. The token
// of an account that the new one may not manage deletes itself.
func (g *gitea) RetireRoot(ctx context.Context, root issuer.Root) error {
	old := *g
	old.username, old.password = root.Settings["username"], root.Secrets["password"]
	if !hasTokenShape(old.password) {
		return nil
	}
	err := g.retire(ctx, old.username, old.password)
	if issuer.StatusOf(err) != http.StatusForbidden {
		return err
	}
	if err = old.retire(ctx, old.username, old.password); issuer.IsRefused(err) {
		_, err = g.currentUser(ctx) // Gitea accepts the new one, so it refuses the old one rightly
	}
	return err
}

// retire deletes the token of an account, if it is listed.
func (g *gitea) retire(ctx context.Context, account string, token dockerconfig.Secret) error {
	tokens, err := g.tokensLike(ctx, account, token)
	switch {
	case err != nil || len(tokens) == 0:
		return err
	case len(tokens) > 1:
		return errAmbiguousToken(tokens)
	}
	return g.deleteListed(ctx, account, tokens[0].ID)
}

// candidateTokens returns the account's tokens that may be the one used as the
// password. There is none if the password is not a token.
func (g *gitea) candidateTokens(ctx context.Context) ([]*sdk.AccessToken, error) {
	if !hasTokenShape(g.password) {
		_, err := g.listTokens(ctx, g.username, func(*sdk.AccessToken) bool { return false })
		return nil, err
	}
	return g.tokensLike(ctx, g.username, g.password)
}

// tokensLike returns the tokens of an account that have the same last eight characters.
// Another one has them with a probability of 1 in 2^32.
func (g *gitea) tokensLike(ctx context.Context, account string, token dockerconfig.Secret) ([]*sdk.AccessToken, error) {
	secret := token.Reveal()
	return g.listTokens(ctx, account, func(listed *sdk.AccessToken) bool {
		return listed.TokenLastEight == secret[len(secret)-8:]
	})
}

// isToken reports whether the password is a token: Gitea accepts no password in
// place of a token.
func (g *gitea) isToken(ctx context.Context) (bool, error) {
	client, err := g.client(ctx, g.username, transport{secret: g.password})
	if err != nil {
		return false, issuer.Failed(err)
	}
	_, resp, err := client.GetMyUserInfo()
	if err = mapError(resp, err); issuer.IsRefused(err) {
		return false, nil
	}
	return err == nil, err
}
