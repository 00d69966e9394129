// SPDX-License-Identifier: MPL-2.0

package artifactory

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	accessAPI = "/access/api/v1"
	health    = "/router/api/v1/system/health"

	// accessService begins the ID of JFrog Access, the service that knows the tokens.
	accessService = "jfac@"

	maxRefusal = 64 << 10 // bytes of an error answer
)

// api is the REST API of JFrog Access.
type api struct {
	url   string // of the JFrog Platform
	http  *http.Client
	token dockerconfig.Secret
}

// call is one call of the API.
type call struct {
	method, path string
	query        url.Values
	in           any
	read         func(io.Reader) error // reads the body of a success; nil: ignores it

	// forbidden explains a 403.
	forbidden string
}

func readJSON(out any) func(io.Reader) error {
	return func(body io.Reader) error { return json.NewDecoder(body).Decode(out) }
}

func (a api) do(ctx context.Context, c call) error {
	request, err := a.request(ctx, c)
	if err != nil {
		return issuer.Failed(err)
	}
	answer, err := a.http.Do(request)
	if err != nil {
		return issuer.Failed(err)
	}
	defer func() { _ = answer.Body.Close() }()
	switch {
	case answer.StatusCode < 200 || answer.StatusCode > 299:
		return a.refusal(ctx, c, answer)
	case c.read == nil:
		return nil
	}
	return issuer.Failed(c.read(answer.Body))
}

func (a api) request(ctx context.Context, c call) (*http.Request, error) {
	var body io.Reader
	if c.in != nil {
		encoded, err := json.Marshal(c.in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(encoded)
	}
	address := a.url + accessAPI + c.path
	if len(c.query) > 0 {
		address += "?" + c.query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, c.method, address, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+a.token.Reveal())
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

// refusalBody is the body of a refusal of JFrog Access, which has two forms.
type refusalBody struct {
	refusalEntry
	Errors []refusalEntry `json:"errors"`
}

type refusalEntry struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Detail  string `json:"detail"`
}

func (b refusalBody) entries() []refusalEntry { return append(b.Errors, b.refusalEntry) }

func (b refusalBody) said() []string {
	var said []string
	for _, e := range b.entries() {
		said = append(said, cmp.Or(e.Message, e.Code), e.Detail)
	}
	return said
}

// refusal returns the error of an answer whose status is not success. No answer proves
// that a token is gone: only a list without it does.
func (a api) refusal(ctx context.Context, c call, answer *http.Response) error {
	var body refusalBody
	if json.NewDecoder(io.LimitReader(answer.Body, maxRefusal)).Decode(&body) != nil {
		body = refusalBody{}
	}
	err := issuer.StatusError(answer.StatusCode, answer.Header, body.said()...)
	has := func(code string) bool {
		return slices.ContainsFunc(body.entries(), func(e refusalEntry) bool { return e.Code == code })
	}
	switch {
	case answer.StatusCode == http.StatusForbidden:
		err = issuer.Hint(err, c.forbidden)
	case answer.StatusCode == http.StatusUnauthorized && has("UNAUTHORIZED"):
		if outage := a.outage(ctx); outage != "" {
			return issuer.Hint(err, outage)
		}
		return issuer.Proving(issuer.ProvesRefused, err)
	}
	return err
}

// outage returns why JFrog Access may refuse every token now, "" if the health check of
// the JFrog Platform says that it is well.
func (a api) outage(ctx context.Context) string {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+health, http.NoBody)
	if err != nil {
		return "the health check cannot be called"
	}
	answer, err := a.http.Do(request)
	if err != nil {
		return "the health check does not answer"
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return fmt.Sprintf("the health check at %s answers %d", health, answer.StatusCode)
	}
	var said struct {
		Router struct {
			State string `json:"state"`
		} `json:"router"`
		Services issuer.List[struct {
			ID    string `json:"service_id"`
			State string `json:"state"`
		}] `json:"services"`
	}
	if json.NewDecoder(answer.Body).Decode(&said) != nil || said.Router.State == "" {
		return fmt.Sprintf("the answer of the health check at %s is not that of a JFrog Platform", health)
	}
	for _, service := range said.Services {
		if strings.HasPrefix(service.ID, accessService) && service.State == "UNHEALTHY" {
			return "the health check says that JFrog Access is unhealthy"
		}
	}
	return ""
}

// token is what the API tells of a token. The times are seconds since 1970; without an
// end, Expiry is 0.
type tokenInfo struct {
	ID          string `json:"token_id"`
	Subject     string `json:"subject"`
	Description string `json:"description"`
	Expiry      int64  `json:"expiry"`
	IssuedAt    int64  `json:"issued_at"`
}

// user returns the name of a token's user, "" if it has none.
func (t tokenInfo) user() string { return userIn(t.Subject) }

// userIn returns the user in a subject, whose form is service/users/name.
func userIn(subject string) string {
	_, user, _ := strings.Cut(subject, "/users/")
	return user
}

// me returns the connection's token.
func (a api) me(ctx context.Context) (tokenInfo, error) {
	var me tokenInfo
	err := a.do(ctx, call{method: http.MethodGet, path: "/tokens/me", read: readJSON(&me)})
	switch {
	case issuer.StatusOf(err) == http.StatusNotFound:
		err = issuer.Hint(err, "Artifactory before 7.53.1 cannot be used, nor a token that it does not store because it ends too soon")
	case err == nil && (me.ID == "" || me.user() == ""):
		err = issuer.Malformedf("the answer does not describe the token and its user")
	}
	return me, err
}

// list returns the tokens that a filter selects and that match. Somebody who is no
// administrator gets only their own.
func (a api) list(ctx context.Context, filter url.Values, match func(tokenInfo) bool) ([]tokenInfo, error) {
	var answer struct {
		Tokens *issuer.List[tokenInfo] `json:"tokens"`
	}
	err := a.do(ctx, call{
		method: http.MethodGet, path: "/tokens", query: filter, read: readJSON(&answer),
		forbidden: "only an access token of a user, or one with the scope applied-permissions/admin, can list tokens",
	})
	if err == nil && answer.Tokens == nil {
		err = issuer.Malformedf("the answer has no list of tokens")
	}
	if err != nil {
		return nil, err
	}
	var matching []tokenInfo
	for _, one := range *answer.Tokens {
		if match(one) {
			matching = append(matching, one)
		}
	}
	return matching, nil
}

// needsAdmin explains a 403 to somebody who is no administrator.
const needsAdmin = "the token must have the scope applied-permissions/admin; one of a project administrator needs username in the connection, the name of its user"

// checkAdmin returns an error unless the token is an administrator's, who alone may read
// the certificate with which the JFrog Platform signs tokens.
func (a api) checkAdmin(ctx context.Context) error {
	return a.do(ctx, call{method: http.MethodGet, path: "/cert/root", read: readCertificate, forbidden: needsAdmin})
}

// readCertificate reads a certificate: DER in base64. It proves that the answer is no
// other server's.
func readCertificate(body io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(body, maxRefusal))
	if err != nil {
		return err
	}
	der, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err == nil {
		_, err = x509.ParseCertificate(der)
	}
	if err != nil {
		return issuer.Malformedf("the answer to the question for the root certificate has none")
	}
	return nil
}
