// SPDX-License-Identifier: MPL-2.0

// Package gitea mints access tokens at a Gitea, for its container registry.
package gitea

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	sdk "code.gitea.io/sdk/gitea"
	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

// scopeWriteUser is the scope that a token needs to mint others.
const scopeWriteUser sdk.AccessTokenScope = "write:user"

// Type returns the type gitea.
func Type() issuer.Type {
	return issuer.Type{
		Name:        "gitea",
		Description: "Mints access tokens of a Gitea account, which may read packages.",
		ConnectionFields: map[string]*framework.FieldSchema{
			"username": {
				Type:        framework.TypeString,
				Description: "User name of the root credential.",
			},
			"password": {
				Type:         framework.TypeString,
				Description:  "Password of that user, or the robot secret or access token used in its place.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
		},
		RoleFields: map[string]*framework.FieldSchema{
			"user": {
				Type:        framework.TypeString,
				Description: "Account whose access tokens are minted. Default: username of the connection. For any other account, that user must be a site administrator.",
			},
		},
		Target: newTarget,
		New:    open,
	}
}

// accountName and notAccountName are Gitea's rule for the names of accounts.
var (
	accountName    = regexp.MustCompile(`^[0-9A-Za-z][-.0-9A-Za-z_]*$`)
	notAccountName = regexp.MustCompile(`[-._]{2}|[-._]$`)
)

func checkAccount(field, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s: must be set: the name of an account", field)
	case !isAccountName(name):
		return fmt.Errorf(`%s: must be the name of an account, not an e-mail address: letters and digits, with single "-", "_" or "." in between`, field)
	}
	return nil
}

func isAccountName(name string) bool {
	return accountName.MatchString(name) && !notAccountName.MatchString(name)
}

func newTarget(c issuer.Connection, fields issuer.Settings) (issuer.Target, error) {
	user := fields["user"]
	if user == "" {
		user = c.Settings["username"]
	}
	if err := checkAccount("user", user); err != nil {
		return issuer.Target{}, err
	}
	return issuer.Target{Settings: issuer.Settings{"user": user}, Names: []string{user}}, nil
}

type gitea struct {
	conn     issuer.Connection
	username string
	password dockerconfig.Secret
}

func open(c issuer.Connection) (issuer.Issuer, error) {
	g := &gitea{conn: c, username: c.Settings["username"], password: c.Secrets["password"]}
	if err := checkAccount("username", g.username); err != nil {
		return nil, err
	}
	if g.password.Reveal() == "" {
		return nil, fmt.Errorf("password: must be set: the account's password, or an access token of it with the scope %s", scopeWriteUser)
	}
	return g, nil
}

// Check implements [issuer.Issuer].
func (g *gitea) Check(ctx context.Context) (issuer.Status, error) {
	me, err := g.currentUser(ctx)
	if err != nil {
		return issuer.Status{}, err
	}
	status := issuer.Status{Identity: me.UserName}
	if me.IsAdmin {
		status.Identity += " (site administrator)"
		status.Warnings = append(status.Warnings, fmt.Sprintf(
			"%s is a site administrator, so roles can mint for every account that allowed_targets does not rule out; roles for one account need only that account's own credential", me.UserName))
	}
	// This also proves that a password may manage tokens.
	own, err := g.candidateTokens(ctx)
	if err != nil {
		return issuer.Status{}, err
	}
	if len(own) != 1 {
		return status, nil
	}
	warning, err := checkScopes(own[0].Scopes)
	if err != nil {
		return issuer.Status{}, err
	}
	if warning != "" {
		status.Warnings = append(status.Warnings, warning)
	}
	if err := g.checkEnds(ctx); err != nil {
		return issuer.Status{}, err
	}
	return status, nil
}

// noTokensID is the ID of no access token: they are counted up from 1.
const noTokensID = math.MaxInt64

// checkEnds checks that the access token used as the password may mint and end others,
// by ending one that does not exist. Forgejo lets it list them in any case.
func (g *gitea) checkEnds(ctx context.Context) error {
	if err := g.deleteToken(ctx, g.username, noTokensID); issuer.StatusOf(err) != http.StatusNotFound {
		return err
	}
	return nil
}

// checkScopes checks the scopes of a token that is used as the password.
func checkScopes(scopes []sdk.AccessTokenScope) (warning string, err error) {
	switch {
	case len(scopes) == 0:
		return "", nil // Gitea before 1.22.3 does not list them
	case !slices.Contains(scopes, scopeWriteUser) && !slices.Contains(scopes, sdk.AccessTokenScopeAll):
		return "", issuer.Refusedf("the access token used as the password lacks the scope %s, without which it cannot mint", scopeWriteUser)
	case len(scopes) > 1 || scopes[0] != scopeWriteUser:
		return fmt.Sprintf("the access token used as the password has the scopes %s; %s is all that is needed", redact.Untrusted(joinScopes(scopes)), scopeWriteUser), nil
	}
	return "", nil
}

func joinScopes(scopes []sdk.AccessTokenScope) string {
	var names []string
	for _, scope := range scopes {
		names = append(names, string(scope))
	}
	return strings.Join(names, ", ")
}

// Mint implements [issuer.Issuer]. Gitea's tokens have no expiry.
func (g *gitea) Mint(ctx context.Context, r issuer.Request) (issuer.Credential, error) {
	account := r.For["user"]
	token, err := g.createToken(ctx, account, r.Name, []sdk.AccessTokenScope{sdk.AccessTokenScopeReadPackage})
	if err != nil {
		return issuer.Credential{}, err
	}
	return issuer.Credential{
		ID:       strconv.FormatInt(token.ID, 10),
		Username: account,
		Password: dockerconfig.NewSecret(token.Token),
	}, nil
}

// Find implements [issuer.Issuer].
func (g *gitea) Find(ctx context.Context, target issuer.Settings, name string) ([]string, error) {
	ids, err := g.find(ctx, target["user"], name)
	if issuer.IsGone(err) {
		return nil, nil
	}
	return ids, err
}

// find returns the IDs of an account's tokens with a name.
func (g *gitea) find(ctx context.Context, account, name string) ([]string, error) {
	tokens, err := g.listTokens(ctx, account, func(token *sdk.AccessToken) bool { return token.Name == name })
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, token := range tokens {
		ids = append(ids, strconv.FormatInt(token.ID, 10))
	}
	return ids, nil
}

// Revoke implements [issuer.Issuer]. Gitea has no call that describes one token, so the
// list is read.
func (g *gitea) Revoke(ctx context.Context, target issuer.Settings, name, id string) error {
	if _, err := strconv.ParseInt(id, 10, 64); err != nil {
		return issuer.Refusedf("%q is not the ID of an access token", id)
	}
	return g.ending(target["user"], name).End(ctx, name, id)
}

func (g *gitea) ending(account, name string) issuer.Ending {
	return issuer.Ending{
		Find: func(ctx context.Context) ([]string, error) { return g.find(ctx, account, name) },
		Delete: func(ctx context.Context, id string) error {
			number, err := strconv.ParseInt(id, 10, 64)
			if err != nil {
				return issuer.Malformedf("the ID of the access token is not a number")
			}
			return g.deleteListed(ctx, account, number)
		},
	}
}

// deleteListed deletes a token that was in the list. Gitea's answer that it is not found
// is no proof, because it also hides an account. The list is.
func (g *gitea) deleteListed(ctx context.Context, account string, id int64) error {
	err := g.deleteToken(ctx, account, id)
	if issuer.StatusOf(err) != http.StatusNotFound {
		return err
	}
	tokens, listErr := g.listTokens(ctx, account, func(token *sdk.AccessToken) bool { return token.ID == id })
	if listErr == nil && len(tokens) == 0 {
		return nil
	}
	return err
}
