// SPDX-License-Identifier: MPL-2.0

package acr

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

const (
	managementHost = "management.azure.com"
	apiVersion     = "2023-07-01" // of Microsoft.ContainerRegistry; stable

	// maxName caps the name of a token, which has letters, digits and '-'.
	maxName      = 50
	uniqueSuffix = 27 // length of '-' and the random end of a name

	// pollPause is how long to wait before a long-running operation is looked at again.
	pollPause = 500 * time.Millisecond

	// usableWithin is for how long a registry may refuse a new password before it is
	// given all the same. Microsoft says up to a minute; nobody waits so long for a read.
	usableWithin = 5 * time.Second

	hintLeft = "the token was made, and is deleted in some minutes"
)

// tokens mints tokens of a registry, through Azure Resource Manager.
type tokens struct{ registry }

// token is a token as Azure Resource Manager describes it.
type token struct {
	Name       string `json:"name"`
	Properties struct {
		State string `json:"provisioningState"`
	} `json:"properties"`
}

// manager calls Azure Resource Manager about one registry.
type manager struct {
	*caller
	bearer dockerconfig.Secret
	base   string // of the service
	id     string // of the registry
}

func (t *tokens) manager(ctx context.Context) (*manager, error) {
	c, bearer, err := t.signIn(ctx, managementScope)
	if err != nil {
		return nil, err
	}
	return &manager{c, dockerconfig.NewSecret(bearer), t.endpoint(managementHost), t.conn.Settings[fieldRegistryID]}, nil
}

// call sends a request about the registry, or about a part of it.
func (m *manager) call(ctx context.Context, method, part string, in, out any, wanted ...int) (head, error) {
	return m.callURL(ctx, method, m.base+m.id+part+"?api-version="+apiVersion, in, out, wanted...)
}

func (m *manager) callURL(ctx context.Context, method, address string, in, out any, wanted ...int) (head, error) {
	var body io.Reader
	if in != nil {
		var err error
		if body, err = jsonBody(in); err != nil {
			return head{}, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return head{}, issuer.Failed(err)
	}
	req.Header.Set("Authorization", "Bearer "+m.bearer.Reveal())
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return m.do(req, out, wanted...)
}

// onward returns an address that an answer names, if it is of the same service: the
// token of the root credential goes nowhere else. Azure names the port of some.
func (m *manager) onward(address string) (string, error) {
	if path, named := strings.CutPrefix(address, m.base+":443/"); named {
		address = m.base + "/" + path
	}
	if !strings.HasPrefix(address, m.base+"/") {
		return "", issuer.Malformedf("the answer leads to another server; nothing was sent there")
	}
	return address, nil
}

// Check reads the registry, and the first page of its tokens.
func (t *tokens) Check(ctx context.Context) (issuer.Status, error) {
	m, err := t.manager(ctx)
	if err != nil {
		return issuer.Status{}, err
	}
	var found struct {
		Properties struct {
			LoginServer string `json:"loginServer"`
		} `json:"properties"`
	}
	if _, err := m.call(ctx, http.MethodGet, "", nil, &found, http.StatusOK); err != nil {
		return issuer.Status{}, err
	}
	switch server := found.Properties.LoginServer; {
	case server == "":
		return issuer.Status{}, issuer.Malformedf("the answer about the registry has no login server")
	case t.conn.URL == "" && !strings.EqualFold(server, t.host()):
		return issuer.Status{}, issuer.Refusedf("registry_id is that of %s, and registry is %s", redact.Untrusted(server), t.host())
	}
	if _, err := m.call(ctx, http.MethodGet, "/tokens", nil, nil, http.StatusOK); err != nil {
		return issuer.Status{}, err
	}
	return issuer.Status{Identity: t.conn.Settings[fieldClient]}, nil
}

// tokenName shortens a name to the length that Azure accepts. It cuts the middle, so
// that the purpose stays readable and the name unique.
func tokenName(name string) string {
	if len(name) <= maxName {
		return name
	}
	return name[:maxName-uniqueSuffix] + name[len(name)-uniqueSuffix:]
}

// Mint makes a token, and then a password for it.
func (t *tokens) Mint(ctx context.Context, r issuer.Request) (issuer.Credential, error) {
	m, err := t.manager(ctx)
	if err != nil {
		return issuer.Credential{}, issuer.NothingDone(err)
	}
	name := tokenName(r.Name)
	var made token
	in := map[string]any{"properties": map[string]string{
		"scopeMapId": m.id + "/scopeMaps/" + r.For[fieldScopeMap], "status": "enabled",
	}}
	if _, err := m.call(ctx, http.MethodPut, "/tokens/"+name, in, &made, http.StatusOK, http.StatusCreated); err != nil {
		if issuer.StatusOf(err) == http.StatusConflict {
			// The name is random, so what has it may be of this very request, sent twice on
			// the way.
			err = issuer.Indefinite(err, "what has the name may be what was asked for")
		}
		return issuer.Credential{}, err
	}
	if !strings.EqualFold(made.Name, name) {
		return issuer.Credential{}, issuer.Malformedf("the answer to the creation of a token is not about it")
	}
	minted, err := m.finish(ctx, name, made, r.ExpiresAt)
	if err != nil {
		return issuer.Credential{}, issuer.Indefinite(issuer.Failed(err), hintLeft)
	}
	t.awaitUsable(ctx, minted)
	return minted, nil
}

// finish waits until a token is there, and makes its password.
func (m *manager) finish(ctx context.Context, name string, made token, expiresAt time.Time) (issuer.Credential, error) {
	err := wait(ctx, func() (bool, error) {
		switch made.Properties.State {
		case "Succeeded":
			return true, nil
		case "Failed", "Canceled":
			return false, issuer.Malformedf("the creation of the token ended as %s", made.Properties.State)
		}
		_, err := m.call(ctx, http.MethodGet, "/tokens/"+name, nil, &made, http.StatusOK)
		return made.Properties.State == "Succeeded", err
	})
	if err != nil {
		return issuer.Credential{}, err
	}
	var answer struct {
		Username  string
		Passwords issuer.List[struct {
			Name, Value string
			Expiry      time.Time
		}]
	}
	in := map[string]string{
		"tokenId": m.resource(name), "name": "password1", "expiry": expiresAt.UTC().Format(time.RFC3339Nano),
	}
	answered, err := m.call(ctx, http.MethodPost, "/generateCredentials", in, &answer, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return issuer.Credential{}, err
	}
	if err := m.awaitAnswer(ctx, answered, &answer); err != nil {
		return issuer.Credential{}, err
	}
	for _, p := range answer.Passwords {
		if p.Name != "password1" || p.Value == "" {
			continue
		}
		if p.Expiry.IsZero() {
			return issuer.Credential{}, issuer.Malformedf("the answer to generateCredentials has a password without an end")
		}
		return issuer.Credential{ID: m.resource(name), Username: name, Password: dockerconfig.NewSecret(p.Value), ExpiresAt: p.Expiry}, nil
	}
	return issuer.Credential{}, issuer.Malformedf("the answer to generateCredentials has no password")
}

// awaitAnswer waits for the result of an operation that was accepted.
func (m *manager) awaitAnswer(ctx context.Context, accepted head, out any) error {
	if accepted.status != http.StatusAccepted {
		return nil
	}
	location, err := m.onward(accepted.header.Get("Location"))
	if err != nil {
		return err
	}
	return wait(ctx, func() (bool, error) {
		next, err := m.callURL(ctx, http.MethodGet, location, nil, out, http.StatusOK, http.StatusAccepted)
		return next.status == http.StatusOK, err
	})
}

// wait calls a function until it is done, with pauses in between.
func wait(ctx context.Context, done func() (bool, error)) error {
	for {
		ended, err := done()
		if err != nil || ended {
			return err
		}
		select {
		case <-ctx.Done():
			return issuer.Failed(ctx.Err())
		case <-time.After(pollPause):
		}
	}
}

// awaitUsable waits while the registry refuses a new password, because readers get it at
// once. If Vault cannot reach the registry, or it takes longer, nothing is lost: nodes
// try again.
func (t *tokens) awaitUsable(ctx context.Context, minted issuer.Credential) {
	ctx, cancel := context.WithTimeout(ctx, usableWithin)
	defer cancel()
	address := t.endpoint(t.host()) + "/oauth2/token?" + url.Values{"service": {t.host()}}.Encode()
	_ = wait(ctx, func() (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return true, err
		}
		req.SetBasicAuth(minted.Username, minted.Password.Reveal())
		resp, err := t.conn.HTTP.Do(req)
		if err != nil {
			return true, err
		}
		_ = resp.Body.Close()
		return resp.StatusCode != http.StatusUnauthorized, nil
	})
}

// Find implements [issuer.Issuer]. Names of tokens are unique in a registry.
func (t *tokens) Find(ctx context.Context, _ issuer.Settings, name string) ([]string, error) {
	m, err := t.manager(ctx)
	if err != nil {
		return nil, err
	}
	return m.find(ctx, tokenName(name))
}

// find returns the resource ID of a token, if there is one. Only a whole list without it proves that
// there is none: a 404 may be about the registry, or of somebody else.
func (m *manager) find(ctx context.Context, name string) ([]string, error) {
	var found token
	_, err := m.call(ctx, http.MethodGet, "/tokens/"+name, nil, &found, http.StatusOK)
	switch {
	case err == nil && strings.EqualFold(found.Name, name):
		return []string{m.resource(name)}, nil
	case err == nil:
		return nil, issuer.Malformedf("the answer about a token is about another one")
	case issuer.StatusOf(err) != http.StatusNotFound:
		return nil, err
	}
	for address := m.base + m.id + "/tokens?api-version=" + apiVersion; address != ""; {
		var page struct {
			Value *issuer.List[token] `json:"value"`
			Next  string              `json:"nextLink"`
		}
		if _, err := m.callURL(ctx, http.MethodGet, address, nil, &page, http.StatusOK); err != nil {
			return nil, err
		}
		if page.Value == nil {
			return nil, issuer.Malformedf("the answer is no list of tokens")
		}
		if slices.ContainsFunc(*page.Value, func(t token) bool { return strings.EqualFold(t.Name, name) }) {
			return []string{m.resource(name)}, nil
		}
		if address = page.Next; address != "" {
			if address, err = m.onward(address); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

// resource returns the resource ID of a token, which is its ID for the engine.
func (m *manager) resource(name string) string { return m.id + "/tokens/" + name }

// Revoke deletes the token of that name: nothing else can have it. A connection that has
// come to be of another registry does not find it there, which proves nothing.
func (t *tokens) Revoke(ctx context.Context, _ issuer.Settings, name, id string) error {
	m, err := t.manager(ctx)
	if err != nil {
		return err
	}
	if id != "" && !strings.EqualFold(id, m.resource(tokenName(name))) {
		return issuer.Refusedf("the credential is a token of another registry, %s: write that registry_id again, or delete the token there", id)
	}
	ending := issuer.Ending{
		Find:   func(ctx context.Context) ([]string, error) { return m.find(ctx, tokenName(name)) },
		Delete: func(ctx context.Context, _ string) error { return m.delete(ctx, tokenName(name)) },
	}
	return ending.EndNamed(ctx)
}

// delete deletes a token, and waits until it is gone if that takes long.
func (m *manager) delete(ctx context.Context, name string) error {
	answered, err := m.call(ctx, http.MethodDelete, "/tokens/"+name, nil, nil, http.StatusOK, http.StatusAccepted, http.StatusNoContent)
	if err != nil {
		return err
	}
	return wait(ctx, func() (bool, error) {
		left, err := m.find(ctx, name)
		if err == nil && len(left) > 0 && answered.status != http.StatusAccepted {
			err = issuer.Malformedf("the token is still there after its deletion")
		}
		return len(left) == 0, err
	})
}
