// SPDX-License-Identifier: MPL-2.0

package harbor

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// pageSize is the largest page size that Harbor accepts.
const pageSize = 100

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
		said := errorMessage(answer.Body)
		if answer.StatusCode == http.StatusForbidden && c.forbidden != "" {
			said += " (" + c.forbidden + ")"
		}
		return nil, issuer.StatusError(answer.StatusCode, answer.Header, said)
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

// errorMessage returns the messages in the body of an error, "" if it is not
// Harbor's.
func errorMessage(body io.Reader) string {
	var said struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.NewDecoder(body).Decode(&said) != nil {
		return ""
	}
	var messages []string
	for _, e := range said.Errors {
		if e.Message == "" {
			e.Message = e.Code
		}
		messages = append(messages, e.Message)
	}
	return strings.Join(messages, "; ")
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
		method: http.MethodGet, path: "/projects/" + url.PathEscape(name), out: &project,
		forbidden: "there is no project " + name + ", or the root credential belongs to neither a project administrator nor a robot account with the permission project: read",
	})
	if err == nil && project.ID <= 0 {
		err = issuer.Malformedf("the answer has no project")
	}
	return project.ID, err
}

// list returns the robot accounts in a scope whose names match: all for "", those
// that contain text for "~text", and otherwise the one whose name, without Harbor's
// prefix, is equal.
func (a api) list(ctx context.Context, as basicAuth, scope registryScope, name string) ([]robot, error) {
	// Without a level, Harbor lists the system-level robot accounts. With
	// Level=system, Harbor before 2.13 also listed those of all projects.
	var conditions []string
	if scope.project != "" {
		conditions = append(conditions, "Level=project", "ProjectID="+strconv.FormatInt(scope.id, 10))
	}
	if name != "" {
		conditions = append(conditions, "Name="+name)
	}
	query := url.Values{"page_size": {strconv.Itoa(pageSize)}}
	if len(conditions) > 0 {
		query.Set("q", strings.Join(conditions, ","))
	}
	var all []robot
	for page := 1; ; page++ {
		query.Set("page", strconv.Itoa(page))
		var some []robot
		header, err := a.do(ctx, as, call{
			method: http.MethodGet, path: "/robots", query: query, out: &some,
			forbidden: "only a project administrator (for system-level robot accounts, a system administrator) or a robot account with the permission robot: list can list robot accounts",
		})
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		if total, err := strconv.Atoi(header.Get("X-Total-Count")); len(some) == 0 || (err == nil && len(all) >= total) {
			return all, nil
		}
	}
}
