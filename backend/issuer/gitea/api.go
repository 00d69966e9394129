// SPDX-License-Identifier: MPL-2.0

package gitea

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	sdk "code.gitea.io/sdk/gitea"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

const (
	pageSize     = 50 // Gitea's default limit for one page
	maxListReads = 5  // caps the readings of a list that changes meanwhile

	maxRefusal = 64 << 10 // bytes of an error answer

	// maxAnswer caps the bytes of an answer. A page of tokens has some 30 KiB. The SDK
	// decodes a page as a whole, and in memory, small elements take many times the bytes
	// that they have in JSON.
	maxAnswer = 256 << 10

	maxTokens = 100_000 // of one account
)

// transport authenticates each request. The SDK's own authentication cannot manage
// the tokens of another account.
type transport struct {
	next     http.RoundTripper
	url      string // of Gitea
	username string // "" sends the secret as a token
	secret   dockerconfig.Secret
}

// authMethodRefused is what Forgejo says, since 12.0.2, to a token in place of a password.
const authMethodRefused = "auth method not allowed"

// RoundTrip implements [http.RoundTripper]. It turns a refusal into an error, because
// the SDK drops what tells Gitea's answers from those of others.
func (t transport) RoundTrip(in *http.Request) (*http.Response, error) {
	out := in.Clone(in.Context())
	if t.username == "" {
		out.Header.Set("Authorization", "token "+t.secret.Reveal())
	} else {
		out.SetBasicAuth(t.username, t.secret.Reveal())
	}
	resp, err := t.next.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < http.StatusBadRequest {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	var said refusal
	if body, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal)); err != nil || json.Unmarshal(body, &said) != nil {
		said = refusal{}
	}
	refused := issuer.StatusError(resp.StatusCode, resp.Header, said.Message)
	proof := said.proves(resp.StatusCode, accountIn(in.URL.Path))
	if proof == issuer.ProvesRefused && t.isUnhealthy(in.Context()) {
		proof, refused = issuer.ProvesNothing, issuer.Hint(refused, "Gitea says that it is unhealthy, and while its database is down, it refuses every password and token")
	}
	if proof == issuer.ProvesRefused && said.Message == authMethodRefused {
		refused = issuer.Hint(refused, "Forgejo lets no access token mint or end others: write the account's own password to the connection")
	}
	return nil, issuer.Proving(proof, refused)
}

// isUnhealthy reports whether Gitea says that it, its database or its cache does not
// work, or does not answer. It answers 401 to every call then.
func (t transport) isUnhealthy(ctx context.Context) bool {
	in, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url+"/api/healthz", http.NoBody)
	if err != nil {
		return true
	}
	resp, err := t.next.RoundTrip(in)
	if err != nil {
		return true
	}
	_ = resp.Body.Close()
	return resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusFailedDependency
}

// refusal is the body of an answer whose status is not success.
type refusal struct {
	Message string  `json:"message"`
	URL     *string `json:"url"` // of the API's reference
}

// proves says what a refusal of a call about an account proves. Of what is missing, only
// the account is named by Gitea; "not found" also hides what may not be seen.
func (r refusal) proves(status int, account string) issuer.Proof {
	switch {
	case r.Message == "" || r.URL == nil:
		return issuer.ProvesNothing // not Gitea's
	case status == http.StatusUnauthorized:
		return issuer.ProvesRefused
	case status == http.StatusNotFound && account != "" &&
		strings.Contains(strings.ToLower(r.Message), "does not exist") &&
		strings.Contains(strings.ToLower(r.Message), "name: "+strings.ToLower(account)+"]"):
		return issuer.ProvesGone
	}
	return issuer.ProvesNothing
}

// accountIn returns the account whose tokens a path of the API is about.
func accountIn(path string) string {
	if match := tokensOf.FindStringSubmatch(path); match != nil {
		return match[1]
	}
	return ""
}

// client returns a client that manages the tokens of an account. It is for one call,
// because a client of the SDK holds one context.
func (g *gitea) client(ctx context.Context, account string, signedIn transport) (*sdk.Client, error) {
	httpClient := *g.conn.HTTP
	signedIn.next, signedIn.url = httpClient.Transport, g.conn.URL
	httpClient.Transport = signedIn
	// The empty version keeps the SDK from asking Gitea for its version first.
	return sdk.NewClient(g.conn.URL, sdk.SetGiteaVersion(""), sdk.SetHTTPClient(&httpClient),
		sdk.SetContext(ctx), sdk.SetBasicAuth(account, ""))
}

// call makes a call about an account, authenticated with the root credential.
func (g *gitea) call(ctx context.Context, account string, do func(*sdk.Client) (*sdk.Response, error)) (*sdk.Response, error) {
	client, err := g.client(ctx, account, transport{username: g.username, secret: g.password})
	if err != nil {
		return nil, issuer.Failed(err)
	}
	resp, err := do(client)
	return resp, mapError(resp, err)
}

// callFollowingRename is [gitea.call] for an account that may have been renamed. The
// account keeps its tokens, and Gitea redirects from the old name to the new one.
// Only the name in the redirect is used, never its address.
func (g *gitea) callFollowingRename(ctx context.Context, account string, do func(*sdk.Client) (*sdk.Response, error)) error {
	resp, err := g.call(ctx, account, do)
	if name := renamedTo(resp); name != "" {
		_, err = g.call(ctx, name, do)
	}
	return err
}

var tokensOf = regexp.MustCompile(`/api/v1/users/([^/]+)/tokens`)

// renamedTo returns the new name of an account if the answer is a redirect to it,
// and "" otherwise.
func renamedTo(resp *sdk.Response) string {
	if resp == nil || resp.StatusCode != http.StatusTemporaryRedirect {
		return ""
	}
	location, err := resp.Location()
	if err != nil {
		return ""
	}
	match := tokensOf.FindStringSubmatch(location.Path)
	if match == nil || !isAccountName(match[1]) {
		return ""
	}
	return match[1]
}

// mapError converts an error of the SDK to one of package issuer.
func mapError(resp *sdk.Response, err error) error {
	if err == nil || resp == nil || resp.StatusCode/100 == 2 {
		return issuer.Failed(err)
	}
	return issuer.StatusError(resp.StatusCode, resp.Header, "") // a redirect
}

// currentUser returns the account of the root credential.
func (g *gitea) currentUser(ctx context.Context) (*sdk.User, error) {
	var me *sdk.User
	_, err := g.call(ctx, g.username, func(c *sdk.Client) (resp *sdk.Response, err error) {
		me, resp, err = c.GetMyUserInfo()
		return resp, err
	})
	switch {
	case err != nil:
		return nil, err
	case me.UserName == "":
		return nil, issuer.Malformedf("the answer does not name the account of the root credential")
	case !strings.EqualFold(me.UserName, g.username):
		// Gitea ignores the user name if the password is an access token.
		return nil, issuer.Refusedf("the root credential is an access token of the account %s; write username=%s to the connection", redact.Untrusted(me.UserName), redact.Untrusted(me.UserName))
	}
	return me, nil
}

func (g *gitea) createToken(ctx context.Context, account, name string, scopes []sdk.AccessTokenScope) (*sdk.AccessToken, error) {
	var token *sdk.AccessToken
	resp, err := g.call(ctx, account, func(c *sdk.Client) (resp *sdk.Response, err error) {
		token, resp, err = c.CreateAccessToken(sdk.CreateAccessTokenOption{Name: name, Scopes: scopes})
		return resp, err
	})
	if renamed := renamedTo(resp); renamed != "" {
		// allowed_targets may not cover the new name, so the role must name it.
		return nil, issuer.Refusedf("the account %s was renamed to %s; write user=%s to the role", account, redact.Untrusted(renamed), redact.Untrusted(renamed))
	}
	if err != nil {
		return nil, err
	}
	if token.ID == 0 || token.Token == "" {
		return nil, issuer.Malformedf("the answer has no access token")
	}
	return token, nil
}

func (g *gitea) deleteToken(ctx context.Context, account string, id int64) error {
	return g.callFollowingRename(ctx, account, func(c *sdk.Client) (*sdk.Response, error) {
		resp, err := c.DeleteAccessToken(id)
		if err == nil && resp.StatusCode != http.StatusNoContent {
			err = issuer.Malformedf("answered %d %s to a deletion, where 204 is expected", resp.StatusCode, http.StatusText(resp.StatusCode))
		}
		return resp, err
	})
}

// listTokens returns the access tokens of an account that match. It reads the whole list.
func (g *gitea) listTokens(ctx context.Context, account string, match func(*sdk.AccessToken) bool) ([]*sdk.AccessToken, error) {
	var tokens []*sdk.AccessToken
	err := g.callFollowingRename(ctx, account, func(c *sdk.Client) (resp *sdk.Response, err error) {
		for range maxListReads {
			var complete bool
			if tokens, complete, resp, err = readPages(c, match); complete || err != nil {
				return resp, err
			}
		}
		return resp, issuer.Malformedf("the list of the access tokens of %s changed each time that it was read", account)
	})
	return tokens, err
}

// readPages reads all pages of the list once, and returns the tokens that match.
// complete is false if tokens were added or deleted meanwhile, because the following
// tokens then move to another page, and one may have been missed.
func readPages(c *sdk.Client, match func(*sdk.AccessToken) bool) (tokens []*sdk.AccessToken, complete bool, resp *sdk.Response, err error) {
	read := map[int64]bool{} // by ID
	first := ""
	for page := 1; ; page++ {
		options := sdk.ListAccessTokensOptions{ListOptions: sdk.ListOptions{Page: page, PageSize: pageSize}}
		var found []*sdk.AccessToken
		if found, resp, err = c.ListAccessTokens(options); err != nil {
			return nil, false, resp, err
		}
		total := resp.Header.Get("X-Total-Count")
		if page == 1 {
			first = total
		}
		if total != first {
			return nil, false, resp, nil
		}
		before := len(read)
		for _, token := range found {
			if token == nil {
				return nil, false, resp, issuer.Malformedf("the list of access tokens has an element that is none")
			}
			if !read[token.ID] && match(token) {
				tokens = append(tokens, token)
			}
			read[token.ID] = true
		}
		if len(read) > maxTokens {
			return nil, false, resp, issuer.Malformedf("the list has more than %d access tokens", maxTokens)
		}
		count, notSaid := strconv.Atoi(total)
		known := notSaid == nil
		if ended := len(read) == before; ended || known && len(read) >= count {
			return tokens, !known || len(read) >= count, resp, nil
		}
	}
}
