// SPDX-License-Identifier: MPL-2.0

package httpbroker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// maxAnswer caps the bytes of an answer that has one credential or an error.
const maxAnswer = 256 << 10

// authentication says how requests prove who the engine is.
type authentication struct {
	header   string // "" for basic authentication
	token    dockerconfig.Secret
	username string
	password dockerconfig.Secret
}

var (
	headerPattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,99}$`)
	tokenPattern  = regexp.MustCompile(`^[!-~]+$`)

	// otherHeaders change what a request is, or where it goes.
	otherHeaders = []string{
		"Accept", "Accept-Encoding", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect", "Forwarded", "Host", "Keep-Alive",
		"Proxy-Authorization", "Proxy-Connection", "Referer", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent", "X-Forwarded-Host",
	}
)

func newAuthentication(c issuer.Connection) (authentication, error) {
	a := authentication{token: c.Secrets[fieldToken], username: c.Settings[fieldUsername], password: c.Secrets[fieldPassword]}
	header, hasToken, hasPassword := c.Settings[fieldTokenHeader], a.token.Reveal() != "", a.password.Reveal() != ""
	switch {
	case !hasToken && a.username == "" && !hasPassword:
		return a, errors.New("token: must be set: the token that authenticates the engine; or set username and password")
	case hasToken && (a.username != "" || hasPassword):
		return a, errors.New("token: must be left out with username and password, because a request has one way to authenticate")
	case !hasToken && header != "":
		return a, errors.New("token_header: must be left out without token")
	case !hasToken && a.username == "":
		return a, errors.New("username: must be set with password")
	case !hasToken && !hasPassword:
		return a, errors.New("password: must be set with username")
	case strings.ContainsFunc(a.username, func(r rune) bool { return r < ' ' || r == ':' || r == 0x7f }):
		return a, errors.New("username: must have no ':' and no control characters")
	case !hasToken:
		return a, nil
	case !tokenPattern.MatchString(a.token.Reveal()):
		return a, errors.New("token: must be ASCII characters without white space; leave out Bearer and the header's name")
	}
	if header == "" {
		header = "Authorization"
	}
	a.header = http.CanonicalHeaderKey(header)
	if !headerPattern.MatchString(header) || slices.Contains(otherHeaders, a.header) {
		return a, errors.New("token_header: must be the name of a header that has a token, such as Authorization or X-Auth-Token")
	}
	return a, nil
}

// apply authenticates a request.
func (a authentication) apply(r *http.Request) {
	switch a.header {
	case "":
		r.SetBasicAuth(a.username, a.password.Reveal())
	case "Authorization":
		r.Header.Set(a.header, "Bearer "+a.token.Reveal())
	default:
		r.Header.Set(a.header, a.token.Reveal())
	}
}

// String says whose the root credential is, where nobody else does.
func (a authentication) String() string {
	if a.header == "" {
		return a.username
	}
	return "a token in the header " + a.header
}

// readAnswer reads an answer that has at most limit bytes.
func readAnswer(resp *http.Response, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, issuer.Failed(err)
	case int64(len(body)) > limit:
		return nil, issuer.Malformedf("the answer has more than %d bytes", limit)
	}
	return body, nil
}

// isSuccess reports whether a status says that a request was done.
func isSuccess(status int) bool { return status >= 200 && status < 300 }

// saidIn returns the message in an answer that says no, in one of the forms that APIs
// have: {"message"}, {"error"}, {"error":{"message"}}, {"errors":[{"message"}]}, and so on.
// isJSON says that it is a JSON object.
func saidIn(body []byte) (said string, isJSON bool) {
	var fields map[string]any
	if json.Unmarshal(body, &fields) != nil || fields == nil {
		return "", false
	}
	if list, ok := fields["errors"].([]any); ok && len(list) > 0 {
		fields["errors"] = list[0]
	}
	for _, name := range []string{"message", "error_description", "error_msg", "error", "errors", "detail"} {
		switch value := fields[name].(type) {
		case string:
			return value, true
		case map[string]any:
			if text, ok := value["message"].(string); ok {
				return text, true
			}
		}
	}
	return "", true
}

// fieldf returns an error about a field of the connection.
func fieldf(field, format string, args ...any) error {
	return fmt.Errorf(field+": "+format, args...)
}
