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

// pageSize is the largest that Harbor takes.
const pageSize = 100

// api is Harbor's API. Its calls need no CSRF token, because they carry no
// session: they authenticate with a user name and password each time.
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

	// forbidden says what a 403 is about, because Harbor says no more than
	// "forbidden".
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
		return nil, issuer.Answered(answer.StatusCode, answer.Header, said)
	}
	if c.out == nil {
		// A page that a proxy answers with status 200 does not prove that it was done.
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
	// Without it, a project with a name of digits is taken for the one with
	// that number.
	request.Header.Set("X-Is-Resource-Name", "true")
	return request, nil
}

// errorMessage returns what Harbor says in the body of an error.
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

// account is who a login is.
type account struct {
	ID         int64  `json:"user_id"`
	Username   string `json:"username"`
	Admin      bool   `json:"sysadmin_flag"`
	AdminByIDP bool   `json:"admin_role_in_auth"`

	robot bool // then nothing else is known
}

// whoami asks who a login is; the error has the status 401 where it is
// refused.
func (a api) whoami(ctx context.Context, as basicAuth) (account, error) {
	var who account
	_, err := a.do(ctx, as, call{method: http.MethodGet, path: "/users/current", out: &who})
	switch {
	case issuer.StatusOf(err) == http.StatusPreconditionFailed:
		// Harbor authenticates first, and answers so to all but users.
		return account{robot: true}, nil
	case err != nil:
		return account{}, err
	case who.ID == 0 || who.Username == "":
		return account{}, issuer.Malformedf("the answer does not name a user")
	}
	return who, nil
}

// projectID returns the number of a project, by which robot accounts are
// listed.
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

// list returns the robot accounts of a place whose names match: "" is all,
// "~" and a text are those with the text in them, else it is the name without
// Harbor's prefix.
func (a api) list(ctx context.Context, as basicAuth, scope registryScope, name string) ([]robot, error) {
	// Without a level, Harbor lists the system-level ones; with that level it
	// did, before 2.13, list those of all projects too.
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
