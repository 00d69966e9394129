// SPDX-License-Identifier: MPL-2.0

package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	api "gitlab.com/gitlab-org/api/client-go"

	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	perPage = 100 // GitLab's maximum

	// maxReads caps the readings of a list that changes meanwhile.
	maxReads = 3

	maxRefusal = 64 << 10 // bytes of an error answer
)

// call sends a request to a path below /api/v4/ and decodes the answer into out,
// which may be nil.
func (g *gitlab) call(ctx context.Context, method, path string, in, out any) (*api.Response, error) {
	req, err := g.api.NewRequest(method, path, in, []api.RequestOptionFunc{api.WithContext(ctx)})
	if err != nil {
		return nil, issuer.Refusedf("no request can be built from the url of the connection")
	}
	resp, err := g.api.Do(req, out)
	return resp, issuer.Failed(err)
}

// refusal is an answer whose status is not success.
type refusal struct {
	error        // from issuer.StatusError
	said  string // "" if the body is not GitLab's, such as a proxy's

	// movedTo is the ID of the project that an old path leads to, "" if the answer is
	// not GitLab's redirect.
	movedTo string
}

func (r *refusal) Unwrap() error { return r.error }

// errorBody is the body of a refusal: message, which is a string or strings by
// field, or error with error_description.
type errorBody struct {
	Message     any    `json:"message"`
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

func (b errorBody) parts() []string { return []string{flatten(b.Message), b.Error, b.Description} }

func flatten(message any) string {
	var parts []string
	switch m := message.(type) {
	case string:
		return m
	case []any:
		for _, e := range m {
			parts = append(parts, flatten(e))
		}
	case map[string]any:
		for _, field := range slices.Sorted(maps.Keys(m)) {
			parts = append(parts, field+" "+flatten(m[field]))
		}
	}
	return strings.Join(parts, ", ")
}

// refusalTransport turns every answer that is not a success into an error. The
// client library itself drops GitLab's message of a 404, repeats whole web pages
// of a proxy, and takes 304 for success.
type refusalTransport struct{ next http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (r refusalTransport) RoundTrip(in *http.Request) (*http.Response, error) {
	resp, err := r.next.RoundTrip(in)
	if err != nil {
		return nil, err
	}
	// The client library panics at some malformed Link headers. X-Next-Page has
	// the same information.
	resp.Header.Del("Link")
	// A proxy may answer 200 with a page of its own, which does not prove that the
	// token was deleted.
	done := resp.StatusCode >= 200 && resp.StatusCode < 300
	if done && (in.Method != http.MethodDelete || resp.StatusCode == http.StatusNoContent) {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	if done {
		return nil, issuer.Malformedf("answered %d to a deletion, where 204 is expected", resp.StatusCode)
	}
	var said errorBody
	if body, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal)); err != nil || json.Unmarshal(body, &said) != nil {
		said = errorBody{}
	}
	e := &refusal{said: flatten(said.Message)}
	e.error = issuer.Proving(proves(resp.StatusCode, said), issuer.StatusError(resp.StatusCode, resp.Header, said.parts()...))
	if in.Method == http.MethodGet && resp.StatusCode == http.StatusMovedPermanently {
		e.movedTo = projectIn(resp.Header.Get("Location"))
	}
	return nil, e
}

var movedProject = regexp.MustCompile(`/api/v4/projects/([0-9]+)/`)

// projectIn returns the ID of the project in a redirect. Nothing else of the redirect is
// used, because the token must not go to another host.
func projectIn(location string) string {
	if match := movedProject.FindStringSubmatch(location); match != nil {
		return match[1]
	}
	return ""
}

// movedTo returns the ID of the project that the path in a call leads to, "" if an error
// does not say that it was moved.
func movedTo(err error) string {
	if r, ok := asRefusal(err); ok {
		return r.movedTo
	}
	return ""
}

func asRefusal(err error) (*refusal, bool) {
	var r *refusal
	ok := errors.As(err, &r)
	return r, ok
}

// tokenIsGone matches GitLab's answers that a project or group has no such token. The
// first one is about any record that was looked up in a project or group that the user
// may read.
var tokenIsGone = regexp.MustCompile(`(?i)^404( (project|group|personal) access token)? not found$`)

// ownerIsGone matches GitLab's answers that there is no such project or group, which it
// also gives to a user who is no member.
var ownerIsGone = regexp.MustCompile(`(?i)^404 (project|group) not found$`)

// proves says what an answer proves. That of a missing project or group proves nothing:
// the user may have left it.
func proves(status int, said errorBody) issuer.Proof {
	message := flatten(said.Message)
	switch {
	case status == http.StatusNotFound && said.Error == "" && tokenIsGone.MatchString(message):
		return issuer.ProvesGone
	case status == http.StatusUnauthorized && (strings.HasPrefix(message, "401") || said.Error == "invalid_token"):
		return issuer.ProvesRefused
	}
	return issuer.ProvesNothing
}

// isOwnerGone reports whether GitLab answered that there is no such project or group, as
// it does to those who may not know.
func isOwnerGone(err error) bool {
	r, ok := asRefusal(err)
	return ok && issuer.StatusOf(err) == http.StatusNotFound && ownerIsGone.MatchString(r.said)
}

// tokenEntry is a token of any kind in a list.
type tokenEntry struct {
	ID      int64  `json:"id"`
	Name    string `json:"name"`
	Revoked bool   `json:"revoked"`
	Active  *bool  `json:"active"` // absent for deploy tokens
}

// works reports whether a token has not ended. GitLab keeps access tokens that have.
func (t tokenEntry) works() bool { return !t.Revoked && (t.Active == nil || *t.Active) }

// listOptions are the query parameters of a list.
type listOptions struct {
	UserID  int64  `url:"user_id,omitempty"`
	Search  string `url:"search,omitempty"`
	State   string `url:"state,omitempty"`  // of access tokens
	Active  bool   `url:"active,omitempty"` // of deploy tokens
	Page    int64  `url:"page"`
	PerPage int64  `url:"per_page"`
}

// find returns the IDs of the live tokens in a list with exactly the given name. If
// a token is deleted while pages are read, the following ones move to a page that
// was already read. So find reads again until the list did not change.
func (g *gitlab) find(ctx context.Context, path string, list listOptions, name string) ([]string, error) {
	for range maxReads {
		ids, changed, err := g.read(ctx, path, list, name)
		if err != nil || len(ids) > 0 || !changed {
			return ids, err
		}
	}
	return nil, issuer.Malformedf("the list of tokens changed each time it was read, so a token may have been missed")
}

func (g *gitlab) read(ctx context.Context, path string, list listOptions, name string) (ids []string, changed bool, err error) {
	list.PerPage = perPage
	total := int64(-1)
	for list.Page = 1; ; {
		var page issuer.List[tokenEntry]
		resp, err := g.call(ctx, http.MethodGet, path, list, &page)
		if err != nil {
			return nil, false, err
		}
		for _, token := range page {
			if token.Name == name && token.works() {
				ids = append(ids, fmt.Sprint(token.ID))
			}
		}
		// GitLab omits the total if it is over 10,000.
		changed = changed || total >= 0 && resp.TotalItems != total
		total = resp.TotalItems
		switch {
		case resp.NextPage == 0:
			return ids, changed, nil
		case resp.NextPage <= list.Page:
			return nil, false, issuer.Malformedf("the list of tokens leads back to a page that was already read")
		}
		list.Page = resp.NextPage
	}
}
