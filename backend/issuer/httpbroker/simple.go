// SPDX-License-Identifier: MPL-2.0

package httpbroker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

// The fields of protocol=simple.
const (
	fieldMethod       = "method"
	fieldQuery        = "query"
	fieldBody         = "body"
	fieldLifetime     = "lifetime"
	fieldDockerConfig = "dockerconfig_pointer"
	fieldUserPointer  = "username_pointer"
	fieldPassPointer  = "password_pointer"
	fieldEndPointer   = "expires_at_pointer"
	fieldLeftPointer  = "expires_in_pointer"
)

var simpleFields = []string{fieldMethod, fieldQuery, fieldBody, fieldLifetime, fieldDockerConfig, fieldUserPointer, fieldPassPointer, fieldEndPointer, fieldLeftPointer}

const (
	placeholderHelp = "{seconds}, {minutes} and {expires_at} (RFC 3339) stand for the end of the credential, {name} for its name."

	// maxUnix is the end of the year 9999. Milliseconds since 1970 are more.
	maxUnix = 253402300799

	// checkLifetime is the end that a check asks for.
	checkLifetime = 10 * time.Minute
)

// answering mints with one request to a URL that answers with a credential.
type answering struct {
	conn issuer.Connection
	auth authentication

	method   string
	query    url.Values // with placeholders
	body     string     // with placeholders
	namesEnd bool       // the request says when the credential ends
	lifetime time.Duration

	docker                    bool // the answer has a Docker config
	config                    pointer
	username, password        pointer
	end, left                 pointer
	answerHasEnd, answerHasIn bool
}

func newAnswering(c issuer.Connection, auth authentication) (*answering, error) {
	a := &answering{conn: c, auth: auth, method: c.Settings[fieldMethod], body: c.Settings[fieldBody]}
	if a.method == "" {
		a.method = http.MethodGet
	}
	if !slices.Contains([]string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodOptions}, a.method) {
		return nil, fieldf(fieldMethod, "must be GET, POST, PUT or OPTIONS")
	}
	var err error
	if a.lifetime, err = parseLifetime(c.Settings[fieldLifetime]); err != nil {
		return nil, err
	}
	if err := a.parseRequest(c.Settings); err != nil {
		return nil, err
	}
	return a, a.parsePointers(c.Settings)
}

func parseLifetime(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	lifetime, err := parseutil.ParseDurationSecond(text)
	if err != nil || lifetime < time.Minute || lifetime > maxLifetimeSeconds*time.Second {
		return 0, fieldf(fieldLifetime, "must be a duration from 1m to %dh, such as 12h", maxLifetimeSeconds/3600)
	}
	return lifetime, nil
}

var (
	placeholder  = regexp.MustCompile(`\{[a-z_]+\}`)
	placeholders = []string{"{seconds}", "{minutes}", "{expires_at}", "{name}"}
)

// parseRequest checks the query and the body.
func (a *answering) parseRequest(settings issuer.Settings) error {
	for _, field := range []string{fieldQuery, fieldBody} {
		for _, found := range placeholder.FindAllString(settings[field], -1) {
			if !slices.Contains(placeholders, found) {
				return fieldf(field, "must have no placeholder but %s", strings.Join(placeholders, ", "))
			}
			a.namesEnd = a.namesEnd || found != "{name}"
		}
	}
	var err error
	if a.query, err = url.ParseQuery(settings[fieldQuery]); err != nil {
		return fieldf(fieldQuery, "must be the query of a URL, without '?', such as expiry_seconds={seconds}&read_write=false")
	}
	for name := range a.query {
		if placeholder.MatchString(name) || name == "" || strings.HasPrefix(name, "?") {
			return fieldf(fieldQuery, "must have pairs of a name and a value, without '?', and placeholders only in values")
		}
	}
	switch {
	case a.body == "":
	case a.method == http.MethodGet || a.method == http.MethodOptions:
		return fieldf(fieldBody, "must be left out with method=%s, which has none", a.method)
	case !json.Valid([]byte(fill(a.body, "regcred-example", time.Unix(0, 0), time.Hour))):
		return fieldf(fieldBody, `must be JSON, such as {"expiration_minutes":{minutes}}`)
	}
	return nil
}

// parsePointers checks where the answer has what.
func (a *answering) parsePointers(settings issuer.Settings) (err error) {
	for field, p := range map[string]*pointer{
		fieldDockerConfig: &a.config, fieldUserPointer: &a.username, fieldPassPointer: &a.password, fieldEndPointer: &a.end, fieldLeftPointer: &a.left,
	} {
		if *p, err = parsePointer(settings[field]); err != nil {
			return fieldf(field, "%w", err)
		}
	}
	a.docker = settings[fieldUserPointer] == "" && settings[fieldPassPointer] == ""
	a.answerHasEnd, a.answerHasIn = settings[fieldEndPointer] != "", settings[fieldLeftPointer] != ""
	switch {
	case !a.docker && settings[fieldDockerConfig] != "":
		return fieldf(fieldDockerConfig, "must be left out with username_pointer and password_pointer: an answer has its credential in one place")
	case !a.docker && settings[fieldUserPointer] == "":
		return fieldf(fieldUserPointer, "must be set with password_pointer")
	case !a.docker && settings[fieldPassPointer] == "":
		return fieldf(fieldPassPointer, "must be set with username_pointer")
	case a.answerHasEnd && a.answerHasIn:
		return fieldf(fieldLeftPointer, "must be left out with expires_at_pointer: a credential has one end")
	case !a.answerHasEnd && !a.answerHasIn && !a.namesEnd && a.lifetime == 0:
		return errors.New("lifetime: must be set, such as 12h, because nothing says when a credential ends: neither a placeholder such as {seconds} in query or body, nor expires_at_pointer or expires_in_pointer; the engine cannot revoke it")
	}
	return nil
}

// fill puts values in place of placeholders.
func fill(text, name string, ends time.Time, left time.Duration) string {
	return strings.NewReplacer(
		"{seconds}", strconv.FormatInt(int64(math.Ceil(left.Seconds())), 10),
		"{minutes}", strconv.FormatInt(int64(math.Ceil(left.Minutes())), 10),
		"{expires_at}", wholeSecond(ends).Format(time.RFC3339),
		"{name}", name,
	).Replace(text)
}

// Check mints a credential that ends soon, if the request says when, and throws it away,
// because no other request shows whether the url answers with one.
func (a *answering) Check(ctx context.Context) (issuer.Status, error) {
	if _, err := a.mint(ctx, issuer.NewName("check"), a.conn.Now().Add(checkLifetime)); err != nil {
		return issuer.Status{}, err
	}
	return issuer.Status{Identity: a.auth.String()}, nil
}

// Mint implements [issuer.Issuer].
func (a *answering) Mint(ctx context.Context, r issuer.Request) (issuer.Credential, error) {
	return a.mint(ctx, r.Name, r.ExpiresAt)
}

// Find returns nothing, because the url has no list.
func (a *answering) Find(context.Context, issuer.Settings, string) ([]string, error) { return nil, nil }

// Revoke does nothing, because the url ends nothing.
func (a *answering) Revoke(context.Context, issuer.Settings, string, string) error { return nil }

func (a *answering) mint(ctx context.Context, name string, until time.Time) (issuer.Credential, error) {
	asked := a.conn.Now()
	left := max(until.Sub(asked), time.Second)
	if a.lifetime > 0 && (left > a.lifetime || !a.namesEnd) {
		left = a.lifetime
	}
	ends := asked.Add(left)
	text, err := a.ask(ctx, name, ends, left)
	if err != nil {
		return issuer.Credential{}, err
	}
	var said any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&said); err != nil || decoder.More() {
		return issuer.Credential{}, issuer.Malformedf("the answer is not JSON")
	}
	minted, err := a.credentialIn(said)
	if err != nil {
		return issuer.Credential{}, err
	}
	minted.ExpiresAt, err = a.endIn(said, asked, ends)
	return minted, err
}

// ask makes the request. It is not repeated once the registry has it, because each
// may make a credential.
func (a *answering) ask(ctx context.Context, name string, ends time.Time, left time.Duration) ([]byte, error) {
	query := url.Values{}
	for field, values := range a.query {
		for _, value := range values {
			query.Add(field, fill(value, name, ends, left))
		}
	}
	target := a.conn.URL
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var body io.Reader = http.NoBody
	if a.body != "" {
		body = strings.NewReader(fill(a.body, name, ends, left))
	}
	req, err := http.NewRequestWithContext(issuer.Once(ctx), a.method, target, body)
	if err != nil {
		return nil, issuer.Failed(err)
	}
	req.Header.Set("Accept", "application/json")
	if a.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	a.auth.apply(req)
	resp, err := a.conn.HTTP.Do(req)
	if err != nil {
		return nil, issuer.Failed(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := readAnswer(resp, maxAnswer)
	if isSuccess(resp.StatusCode) {
		return text, err
	}
	said, isJSON := saidIn(text)
	refused := issuer.StatusError(resp.StatusCode, resp.Header, said)
	if resp.StatusCode == http.StatusUnauthorized && isJSON {
		refused = issuer.Proving(issuer.ProvesRefused, refused) // nothing is ended or given up because of it
	}
	return nil, refused
}

// credentialIn returns the credential in an answer.
func (a *answering) credentialIn(said any) (issuer.Credential, error) {
	if a.docker {
		return a.dockerConfigIn(said)
	}
	username, password := a.username.text(said), a.password.text(said)
	switch {
	case username == "":
		return issuer.Credential{}, issuer.Malformedf("the answer has no user name at username_pointer %s", a.conn.Settings[fieldUserPointer])
	case password == "":
		return issuer.Credential{}, issuer.Malformedf("the answer has no password at password_pointer %s", a.conn.Settings[fieldPassPointer])
	}
	return issuer.Credential{Username: username, Password: dockerconfig.NewSecret(password)}, nil
}

// dockerConfigIn reads the Docker config in an answer. All of its registries must be
// those of the connection, and have the same credential.
func (a *answering) dockerConfigIn(said any) (issuer.Credential, error) {
	found, ok := a.config.find(said)
	if !ok {
		return issuer.Credential{}, issuer.Malformedf("the answer has no Docker config at dockerconfig_pointer %s", a.conn.Settings[fieldDockerConfig])
	}
	text, isText := found.(string)
	if !isText {
		encoded, err := json.Marshal(found)
		if err != nil {
			return issuer.Credential{}, issuer.Failed(err)
		}
		text = string(encoded)
	}
	config, _, err := dockerconfig.Parse(text)
	if err != nil {
		return issuer.Credential{}, issuer.Malformedf("the answer has no usable Docker config: it %s", redact.Untrusted(err.Error()))
	}
	if err := checkKeys(a.conn.Registries, config.Keys()); err != nil {
		return issuer.Credential{}, err
	}
	credentials := config.Credentials()
	first := credentials[0]
	for _, c := range credentials[1:] {
		if c.Username != first.Username || !c.Password.Equal(first.Password) {
			return issuer.Credential{}, issuer.Malformedf("the answer has several credentials, one for each registry; make a connection for each, whose url answers with one")
		}
	}
	return issuer.Credential{Username: first.Username, Password: first.Password}, nil
}

// endIn returns when the credential in an answer ends. It was asked for at a time, with
// an end that holds if the answer says no other.
func (a *answering) endIn(said any, asked, ends time.Time) (time.Time, error) {
	switch {
	case a.answerHasIn:
		seconds, found := a.left.number(said)
		if !found || seconds <= 0 || seconds > maxLifetimeSeconds {
			return time.Time{}, issuer.Malformedf("the answer has no number of seconds at expires_in_pointer %s", a.conn.Settings[fieldLeftPointer])
		}
		return asked.Add(time.Duration(seconds) * time.Second), nil
	case a.answerHasEnd:
		if at, err := time.Parse(time.RFC3339, a.end.text(said)); err == nil {
			return at, nil
		}
		if unix, found := a.end.number(said); found && unix > 0 && unix <= maxUnix {
			return time.Unix(unix, 0), nil
		}
		return time.Time{}, issuer.Malformedf("the answer has no time at expires_at_pointer %s, neither in RFC 3339 nor in Unix seconds", a.conn.Settings[fieldEndPointer])
	}
	return ends, nil
}
