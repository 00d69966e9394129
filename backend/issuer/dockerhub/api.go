// SPDX-License-Identifier: MPL-2.0

package dockerhub

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	loginPath = "/v2/auth/token"

	pageSize   = 100
	maxReads   = 3        // caps the readings of a list that changes meanwhile
	maxRefusal = 64 << 10 // bytes of an error answer
)

// api is Docker Hub's API.
type api struct {
	url      string
	http     *http.Client
	username string
	password dockerconfig.Secret
}

// session is a login: the API takes a token of some minutes, and no password.
type session struct {
	api
	bearer dockerconfig.Secret
}

// receivedSecret is a secret that JSON of an answer can fill.
type receivedSecret struct{ dockerconfig.Secret }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (r *receivedSecret) UnmarshalText(text []byte) error {
	r.Secret = dockerconfig.NewSecret(string(text))
	return nil
}

// login begins a session.
func (a api) login(ctx context.Context) (session, error) {
	var answer struct {
		AccessToken receivedSecret `json:"access_token"`
	}
	err := session{api: a}.do(ctx, call{
		method: http.MethodPost, path: loginPath,
		in: map[string]string{"identifier": a.username, "secret": a.password.Reveal()}, out: &answer, status: http.StatusOK,
	})
	if err == nil && answer.AccessToken.Reveal() == "" {
		err = issuer.Malformedf("the answer to the login has no token")
	}
	return session{api: a, bearer: answer.AccessToken.Secret}, err
}

// call is one call of the API.
type call struct {
	method, path string
	query        url.Values
	in, out      any
	status       int // of success
}

const (
	ownersOnly       = "only an owner of the organization can manage its access tokens, with a password: Docker Hub refuses logins with a personal access token here"
	singleFactorOnly = "Docker Hub takes no password of an account with two-factor authentication, or whose organization enforces single sign-on"
)

func (s session) do(ctx context.Context, c call) error {
	request, err := s.request(ctx, c)
	if err != nil {
		return issuer.Failed(err)
	}
	answer, err := s.http.Do(request)
	if err != nil {
		return issuer.Failed(err)
	}
	defer func() { _ = answer.Body.Close() }()
	switch {
	case answer.StatusCode < 200 || answer.StatusCode > 299:
		return s.refusal(c, answer)
	case answer.StatusCode != c.status:
		return issuer.Malformedf("the answer has the status %d, where %d is expected", answer.StatusCode, c.status)
	case c.out == nil:
		return nil
	}
	return issuer.Failed(json.NewDecoder(answer.Body).Decode(c.out))
}

func (s session) request(ctx context.Context, c call) (*http.Request, error) {
	var body io.Reader
	if c.in != nil {
		encoded, err := json.Marshal(c.in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(encoded)
	}
	address := s.url + c.path
	if len(c.query) > 0 {
		address += "?" + c.query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, c.method, address, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if bearer := s.bearer.Reveal(); bearer != "" {
		request.Header.Set("Authorization", "Bearer "+bearer)
	}
	return request, nil
}

// refusalBody is the body of a refusal. That of invalid input has only text.
type refusalBody struct {
	ErrInfo *json.RawMessage `json:"errinfo"`
	Detail  string           `json:"detail"`
	Message string           `json:"message"`
	Text    string           `json:"text"`
}

// said returns what the body says, nothing if it repeats the token of the session.
func (b refusalBody) said(s session) []string {
	said := []string{b.Message, b.Detail, b.Text}
	if bearer := s.bearer.Reveal(); bearer != "" && strings.Contains(strings.Join(said, " "), bearer) {
		return nil
	}
	return said
}

// refusal returns the error of an answer whose status is not success. No answer proves
// that a token is gone: only a list without it does. Only the answer to a login is about
// the password.
func (s session) refusal(c call, answer *http.Response) error {
	var body refusalBody
	if json.NewDecoder(io.LimitReader(answer.Body, maxRefusal)).Decode(&body) != nil {
		body = refusalBody{}
	}
	err := issuer.StatusError(answer.StatusCode, answer.Header, body.said(s)...)
	switch isHub := body.ErrInfo != nil || body.Detail != ""; {
	case answer.StatusCode == http.StatusForbidden:
		err = issuer.Hint(err, ownersOnly)
	case answer.StatusCode == http.StatusUnauthorized && isHub && c.path == loginPath:
		err = issuer.Proving(issuer.ProvesRefused, issuer.Hint(err, singleFactorOnly))
	}
	return err
}

// accessToken is an access token in the list of an organization.
type accessToken struct {
	ID    string `json:"id"`
	Label string `json:"label"`
}

func tokensPath(organization string) string {
	return "/v2/orgs/" + url.PathEscape(organization) + "/access-tokens"
}

// reading is what one reading of a list has found.
type reading struct {
	matching []accessToken
	ids      []string // of all tokens, sorted
	total    int      // by what each page says; -1 if the pages differ
	pages    int
}

// list returns the access tokens of an organization that match, and the number of all. If
// a token is deleted while pages are read, others move to a page that was already read, and
// one that is made meanwhile keeps the number. So a list of several pages counts if two
// readings have found the same: what is deleted in between is in the first only.
func (s session) list(ctx context.Context, organization string, match func(accessToken) bool) ([]accessToken, int, error) {
	var former reading
	for range maxReads {
		r, err := s.read(ctx, organization, match)
		isWhole := len(r.ids) == r.total && (r.pages == 1 || slices.Equal(r.ids, former.ids))
		if err != nil || len(r.matching) > 0 || isWhole {
			return r.matching, r.total, err
		}
		former = r
	}
	return nil, 0, issuer.Malformedf("the list of access tokens changed each time it was read, so one may have been missed")
}

// read reads all pages of a list once.
func (s session) read(ctx context.Context, organization string, match func(accessToken) bool) (reading, error) {
	var r reading
	for {
		r.pages++
		var answer struct {
			Total   *int                      `json:"total"`
			Next    *string                   `json:"next"`
			Results *issuer.List[accessToken] `json:"results"`
		}
		query := url.Values{"page": {strconv.Itoa(r.pages)}, "page_size": {strconv.Itoa(pageSize)}}
		err := s.do(ctx, call{method: http.MethodGet, path: tokensPath(organization), query: query, out: &answer, status: http.StatusOK})
		if err == nil && (answer.Results == nil || answer.Total == nil) {
			err = issuer.Malformedf("the answer has no list of access tokens")
		}
		if err != nil {
			return reading{}, err
		}
		for _, one := range *answer.Results {
			if match(one) {
				r.matching = append(r.matching, one)
			}
			r.ids = append(r.ids, one.ID)
		}
		if r.pages == 1 {
			r.total = *answer.Total
		} else if r.total != *answer.Total {
			r.total = -1
		}
		if answer.Next == nil || *answer.Next == "" || len(*answer.Results) == 0 {
			slices.Sort(r.ids)
			return r, nil
		}
	}
}

// newToken is the request for an access token.
type newToken struct {
	Label       string     `json:"label"`
	Description string     `json:"description"`
	Resources   []resource `json:"resources"`
	ExpiresAt   time.Time  `json:"expires_at"`
}

type resource struct {
	Type   string   `json:"type"`
	Path   string   `json:"path"`
	Scopes []string `json:"scopes"`
}

// createdToken is the answer to it. Docker Hub never shows the token again.
type createdToken struct {
	ID        string         `json:"id"`
	Label     string         `json:"label"`
	Token     receivedSecret `json:"token"`
	ExpiresAt *time.Time     `json:"expires_at"`
}
