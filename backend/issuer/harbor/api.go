// SPDX-License-Identifier: MPL-2.0

package harbor

import (
	"bytes"
	"cmp"
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
	"vault-plugin-secrets-regcred/backend/registry"
)

const (
	pageSize = 100 // the largest that Harbor accepts

	// systemPageSize is the size of a page of all system-level robot accounts. One that
	// has many permissions in many projects takes some 2.5 KB for each project.
	systemPageSize = 10

	maxReads   = 3        // caps the readings of a list that changes meanwhile
	maxRefusal = 64 << 10 // bytes of an error answer
)

// api is Harbor's API. Calls need no CSRF token, because each one authenticates
// with user name and password instead of a session.
type api struct {
	url  string
	http *http.Client
	now  func() time.Time
}

type basicAuth struct {
	username string
	password dockerconfig.Secret
}

// call is one call of the API.
type call struct {
	method, path string
	query        url.Values
	in, out      any

	// about is what the call is about, in Harbor's words: "robot 7" or "project apps".
	about string

	// forbidden explains a 403, because Harbor answers only "forbidden".
	forbidden string
}

// do makes a call and returns the header of the answer.
func (a api) do(ctx context.Context, as basicAuth, c call) (http.Header, error) {
	request, err := a.request(ctx, as, c)
	if err != nil {
		return nil, issuer.Failed(err)
	}
	answer, err := a.http.Do(request)
	if err != nil {
		return nil, issuer.Failed(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return nil, a.refusal(ctx, as, c, answer)
	}
	if c.out == nil {
		// A proxy may answer 200 with a page of its own, which proves nothing.
		if said, _ := io.CopyN(io.Discard, answer.Body, 1); said > 0 {
			return nil, issuer.Malformedf("answered %d with a body, where Harbor sends none", answer.StatusCode)
		}
		return answer.Header, nil
	}
	if err := json.NewDecoder(answer.Body).Decode(c.out); err != nil {
		return nil, issuer.Failed(err)
	}
	return answer.Header, nil
}

func (a api) request(ctx context.Context, as basicAuth, c call) (*http.Request, error) {
	var body io.Reader
	if c.in != nil {
		encoded, err := json.Marshal(c.in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(encoded)
	}
	address := a.url + c.path
	if len(c.query) > 0 {
		address += "?" + c.query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, c.method, address, body)
	if err != nil {
		return nil, err
	}
	request.SetBasicAuth(as.username, as.password.Reveal())
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	// Without this header, Harbor takes a project name of digits for a project ID.
	request.Header.Set("X-Is-Resource-Name", "true")
	return request, nil
}

// harborError is an element of "errors" in the body of a refusal.
type harborError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// refusal returns the error of an answer whose status is not success.
func (a api) refusal(ctx context.Context, as basicAuth, c call, answer *http.Response) error {
	var body struct {
		Errors []harborError `json:"errors"`
	}
	if json.NewDecoder(io.LimitReader(answer.Body, maxRefusal)).Decode(&body) != nil {
		body.Errors = nil
	}
	proof := proves(answer.StatusCode, body.Errors, c.about)
	said := messagesIn(body.Errors)
	err := issuer.StatusError(answer.StatusCode, answer.Header, said...)
	readOnly := func(message string) bool { return strings.Contains(message, "read only mode") }
	switch {
	case answer.StatusCode == http.StatusForbidden && !slices.ContainsFunc(said, readOnly):
		err = issuer.Hint(err, c.forbidden)
	case proof == issuer.ProvesRefused:
		if outage := a.outage(ctx); outage != "" {
			proof, err = issuer.ProvesNothing, issuer.Hint(err, outage+", and then refuses every password")
		} else if isOfProject(as.username) {
			err = issuer.Hint(err, withItsProject)
		}
	}
	return issuer.Proving(proof, err)
}

// withItsProject says what to do if the robot account of the connection was deleted
// with its project. Harbor tells every account that works that a robot account does
// not exist, and one that does not work nothing at all.
const withItsProject = "a robot account of a project is deleted with the project; if it was, write another account to the connection, of any project, and what the project held counts as revoked"

// isOfProject reports whether a user name is that of a robot account of a project.
func isOfProject(username string) bool { return strings.Contains(username, "+") }

// proves says what an answer proves. Harbor also answers 404 about a permission or a
// path, which says nothing about the robot account.
func proves(status int, said []harborError, about string) issuer.Proof {
	has := func(code, message string) bool {
		return slices.ContainsFunc(said, func(e harborError) bool {
			return e.Code == code && (message == "" || e.Message == message)
		})
	}
	switch {
	case status == http.StatusNotFound && about != "" && has("NOT_FOUND", about+" not found"):
		return issuer.ProvesGone
	case status == http.StatusUnauthorized && has("UNAUTHORIZED", ""):
		return issuer.ProvesRefused
	}
	return issuer.ProvesNothing
}

// outage returns why Harbor may refuse every credential now, "" if it does not.
func (a api) outage(ctx context.Context) string {
	return registry.HarborOutage(func(path string) (int, []byte, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+path, http.NoBody)
		if err != nil {
			return 0, nil, err
		}
		answer, err := a.http.Do(request)
		if err != nil {
			return 0, nil, err
		}
		defer func() { _ = answer.Body.Close() }()
		body, err := io.ReadAll(answer.Body)
		return answer.StatusCode, body, err
	})
}

// messagesIn returns the messages of a refusal, none if it is not Harbor's.
func messagesIn(said []harborError) []string {
	var messages []string
	for _, e := range said {
		messages = append(messages, cmp.Or(e.Message, e.Code))
	}
	return messages
}

// account is the user or robot account of a credential.
type account struct {
	ID         int64  `json:"user_id"`
	Username   string `json:"username"`
	Admin      bool   `json:"sysadmin_flag"`
	AdminByIDP bool   `json:"admin_role_in_auth"`

	robot bool // if true, the other fields are empty
}

// whoami returns the account of a credential. The error has status 401 if Harbor
// refuses the credential.
func (a api) whoami(ctx context.Context, as basicAuth) (account, error) {
	var who account
	_, err := a.do(ctx, as, call{method: http.MethodGet, path: "/users/current", out: &who})
	switch {
	case issuer.StatusOf(err) == http.StatusPreconditionFailed:
		// Harbor authenticates first, then answers 412 to every account that is not a
		// user.
		return account{robot: true}, nil
	case err != nil:
		return account{}, err
	case who.ID == 0 || who.Username == "":
		return account{}, issuer.Malformedf("the answer does not name a user")
	}
	return who, nil
}

// projectID returns the ID of a project. Robot accounts are listed by it.
func (a api) projectID(ctx context.Context, as basicAuth, name string) (int64, error) {
	var project struct {
		ID int64 `json:"project_id"`
	}
	_, err := a.do(ctx, as, call{
		method: http.MethodGet, path: "/projects/" + url.PathEscape(name), out: &project, about: "project " + name,
		forbidden: "there is no project " + name + ", or the root credential belongs to neither a project administrator nor a robot account with the permission project: read",
	})
	if err == nil && project.ID <= 0 {
		err = issuer.Malformedf("the answer has no project")
	}
	return project.ID, err
}

// list returns the robot accounts in a scope that match, among those that the filter
// selects: all for "", those whose names contain text for "~text", and otherwise the one
// whose name, without Harbor's prefix, is equal. If a robot account is deleted while
// pages are read, the following ones move to a page that was already read. So list reads
// again until the list did not change.
func (a api) list(ctx context.Context, as basicAuth, scope registryScope, filter string, match func(robot) bool) ([]robot, error) {
	// Without a level, Harbor lists the system-level robot accounts. With
	// Level=system, Harbor before 2.13 also listed those of all projects.
	var conditions []string
	if scope.project != "" {
		conditions = append(conditions, "Level=project", "ProjectID="+strconv.FormatInt(scope.id, 10))
	}
	if filter != "" {
		conditions = append(conditions, "Name="+filter)
	}
	size := pageSize
	if len(conditions) == 0 {
		size = systemPageSize
	}
	query := url.Values{"page_size": {strconv.Itoa(size)}}
	if len(conditions) > 0 {
		query.Set("q", strings.Join(conditions, ","))
	}
	for range maxReads {
		matching, changed, err := a.read(ctx, as, query, match)
		if err != nil || len(matching) > 0 || !changed {
			return matching, err
		}
	}
	return nil, issuer.Malformedf("the list of robot accounts changed each time it was read, so one may have been missed")
}

// read reads all pages of a list once.
func (a api) read(ctx context.Context, as basicAuth, query url.Values, match func(robot) bool) (matching []robot, changed bool, err error) {
	count, first := 0, ""
	for page := 1; ; page++ {
		query.Set("page", strconv.Itoa(page))
		var some issuer.List[robot]
		header, err := a.do(ctx, as, call{
			method: http.MethodGet, path: "/robots", query: query, out: &some,
			forbidden: "only a project administrator (for system-level robot accounts, a system administrator) or a robot account with the permission robot: list can list robot accounts",
		})
		if err != nil {
			return nil, false, err
		}
		for _, one := range some {
			if match(one) {
				matching = append(matching, one)
			}
		}
		count += len(some)
		said := header.Get("X-Total-Count")
		if page == 1 {
			first = said
		}
		changed = changed || said != first
		total, notSaid := strconv.Atoi(said)
		if len(some) == 0 || notSaid == nil && count >= total {
			return matching, changed || notSaid == nil && count < total, nil
		}
	}
}
