// SPDX-License-Identifier: MPL-2.0

package quay

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// maxRefusal caps the bytes of an answer that says no.
const maxRefusal = 64 << 10

// refusal is the body of an answer that is not success. Quay has two forms: of its API,
// and of a failure below it, which has a message only.
type refusal struct {
	Message string `json:"message"`
	Detail  string `json:"detail"`
	Type    string `json:"error_type"`
	Status  int    `json:"status"`
}

// noSuchRobot are Quay's messages about a robot account that does not exist. They come
// with status 400.
var noSuchRobot = []string{"Could not find robot with specified username", "Could not find robot with username: "}

// proves says what a refusal proves.
func (r refusal) proves(status int) issuer.Proof {
	switch {
	case status == http.StatusUnauthorized && r.Status == status && (r.Type == "invalid_token" || r.Type == "expired_token"):
		return issuer.ProvesRefused
	case status == http.StatusBadRequest && (r.Message == noSuchRobot[0] || strings.HasPrefix(r.Message, noSuchRobot[1])):
		return issuer.ProvesGone
	}
	return issuer.ProvesNothing
}

// call makes a request. A success is decoded into out, unless that is nil.
func (q *quay) call(ctx context.Context, method, path string, in, out any) error {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return issuer.Failed(err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, q.conn.URL+"/api/v1"+path, &body)
	if err != nil {
		return issuer.Failed(err)
	}
	req.Header.Set("Authorization", "Bearer "+q.token.Reveal())
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := q.conn.HTTP.Do(req)
	if err != nil {
		return issuer.Failed(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return refused(resp)
	}
	if out == nil {
		return nil
	}
	return issuer.Failed(json.NewDecoder(resp.Body).Decode(out))
}

func refused(resp *http.Response) error {
	var said refusal
	if text, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal)); err != nil || json.Unmarshal(text, &said) != nil {
		said = refusal{}
	}
	message := said.Detail
	if message == "" {
		message = said.Message
	}
	err := issuer.StatusError(resp.StatusCode, resp.Header, message)
	switch {
	case resp.StatusCode == http.StatusBadRequest && strings.HasPrefix(said.Detail, "Existing robot with name: "):
		// The name is random, so what has it may be of this very request, sent twice on the way.
		return issuer.Indefinite(err, "what has the name may be what was asked for")
	case resp.StatusCode == http.StatusForbidden && strings.HasPrefix(said.Message, "CSRF token"):
		return issuer.Hint(err, "Quay answers this to a token that it does not know")
	case resp.StatusCode == http.StatusForbidden && said.Type == "insufficient_scope":
		return issuer.Hint(err, "the token needs the scopes org:admin and repo:admin, and a user who is an owner of the organization")
	}
	return issuer.Proving(said.proves(resp.StatusCode), err)
}

func (q *quay) organizationPath() string { return "/organization/" + url.PathEscape(q.organization) }

func (q *quay) robotPath(name string) string {
	return q.organizationPath() + "/robots/" + url.PathEscape(name)
}

func (q *quay) createRobot(ctx context.Context, name string) (token string, err error) {
	var made struct {
		Name  string `json:"name"`
		Token string `json:"token"`
	}
	description := map[string]string{"description": "Created by the Vault secrets engine regcred, which deletes it."}
	if err := q.call(ctx, http.MethodPut, q.robotPath(name), description, &made); err != nil {
		return "", err
	}
	if made.Name != q.robot(name) || made.Token == "" {
		return "", issuer.Malformedf("the answer has no robot account %s with a token", q.robot(name))
	}
	return made.Token, nil
}

// allow gives a robot account access to a repository.
func (q *quay) allow(ctx context.Context, name, repository, access string) error {
	role := map[string]string{accessPull: "read", accessPush: "write"}[access]
	var got struct {
		Role string `json:"role"`
		Name string `json:"name"`
	}
	path := "/repository/" + url.PathEscape(q.organization) + "/" + repository + "/permissions/user/" + url.PathEscape(q.robot(name))
	if err := q.call(ctx, http.MethodPut, path, map[string]string{"role": role}, &got); err != nil {
		return err
	}
	if got.Role != role || got.Name != q.robot(name) {
		return issuer.Malformedf("the answer to a permission is not about the role %s of %s", role, q.robot(name))
	}
	return nil
}

// getRobot fails with proof if there is no robot account of that name.
func (q *quay) getRobot(ctx context.Context, name string) error {
	var found struct {
		Name string `json:"name"` // the token, which stands beside it, is not read
	}
	if err := q.call(ctx, http.MethodGet, q.robotPath(name), nil, &found); err != nil {
		return err
	}
	if found.Name != q.robot(name) {
		return issuer.Malformedf("the answer is not about the robot account %s", q.robot(name))
	}
	return nil
}

func (q *quay) deleteRobot(ctx context.Context, name string) error {
	return q.call(ctx, http.MethodDelete, q.robotPath(name), nil, nil)
}

// listOne lists one robot account of the organization.
func (q *quay) listOne(ctx context.Context) error {
	var list struct {
		Robots *issuer.List[json.RawMessage] `json:"robots"`
	}
	if err := q.call(ctx, http.MethodGet, q.organizationPath()+"/robots?token=false&limit=1", nil, &list); err != nil {
		return err
	}
	if list.Robots == nil {
		return issuer.Malformedf("the answer has no list of robot accounts")
	}
	return nil
}

// isAdmin reports whether the token administers the organization.
func (q *quay) isAdmin(ctx context.Context) (bool, error) {
	var o struct {
		Name  string `json:"name"`
		Admin bool   `json:"is_admin"`
	}
	if err := q.call(ctx, http.MethodGet, q.organizationPath(), nil, &o); err != nil {
		return false, err
	}
	if o.Name != q.organization {
		return false, issuer.Malformedf("the answer is not about the organization %s", q.organization)
	}
	return o.Admin, nil
}
