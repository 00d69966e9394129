// SPDX-License-Identifier: MPL-2.0

package httpbroker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

// The operations that a broker can declare.
const (
	opMint       = "mint"
	opFind       = "find"
	opRevoke     = "revoke"
	opCheck      = "check"
	opRotateRoot = "rotate-root"
)

// operations are what a broker can do.
type operations []string

func (o operations) has(op string) bool { return slices.Contains(o, op) }

// operationsOf returns what a broker has declared.
func operationsOf(declared issuer.Settings) operations {
	return strings.Split(declared[fieldOperations], ",")
}

// broker speaks the protocol regcred-broker/v1.
type broker struct {
	conn issuer.Connection
	auth authentication
}

// answer has the fields that all answers of a broker can have.
type answer struct {
	Protocol string `json:"protocol"`
	Name     string `json:"name"`
	ID       string `json:"id"`
	Error    struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// call makes a request. A success is decoded into out.
func (b *broker) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return issuer.Failed(err)
		}
	}
	target := strings.TrimSuffix(b.conn.URL, "/") + "/v1" + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, &body)
	if err != nil {
		return issuer.Failed(err)
	}
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	b.auth.apply(req)
	resp, err := b.conn.HTTP.Do(req)
	if err != nil {
		return issuer.Failed(err)
	}
	defer func() { _ = resp.Body.Close() }()
	limit := int64(maxAnswer)
	if isSuccess(resp.StatusCode) {
		limit = maxList
	}
	text, err := readAnswer(resp, limit)
	if isSuccess(resp.StatusCode) {
		if err != nil {
			return err
		}
		return decode(text, out)
	}
	var said answer
	if err != nil || json.Unmarshal(text, &said) != nil {
		said = answer{}
	}
	return said.refusal(resp, query)
}

// decode decodes a success. An answer that is not in the broker's own form is none of it.
func decode(text []byte, out any) error {
	var said answer
	if err := json.Unmarshal(text, &said); err != nil {
		return issuer.Malformedf(`the answer is not that of a broker: it is no JSON object whose "protocol" is %q; url must lead to where the broker answers /v1`, protocolV1)
	}
	if err := said.checkProtocol(); err != nil {
		return err
	}
	return issuer.Failed(json.Unmarshal(text, out))
}

func (a answer) checkProtocol() error {
	switch a.Protocol {
	case protocolV1:
		return nil
	case "":
		return issuer.Malformedf(`the answer is not that of a broker: it has no "protocol": %q; url must lead to where the broker answers /v1`, protocolV1)
	}
	return issuer.Malformedf("%s", a.otherProtocol())
}

func (a answer) otherProtocol() string {
	return fmt.Sprintf("the broker speaks %s, and this engine speaks %s only; run a broker that speaks it", redact.Untrusted(a.Protocol), protocolV1)
}

// refusal is the error of an answer that is not success. query is that of the request.
func (a answer) refusal(resp *http.Response, query url.Values) error {
	switch {
	case a.Protocol == protocolV1:
	case a.Protocol != "":
		return issuer.Hint(issuer.StatusError(resp.StatusCode, resp.Header), a.otherProtocol())
	default:
		return issuer.Hint(issuer.StatusError(resp.StatusCode, resp.Header), "the answer is not in a broker's own form")
	}
	err := issuer.StatusError(resp.StatusCode, resp.Header, a.Error.Code, a.Error.Message)
	switch {
	case resp.StatusCode == http.StatusUnauthorized && a.Error.Code == "unauthorized":
		return issuer.Proving(issuer.ProvesRefused, err)
	case resp.StatusCode == http.StatusNotFound && a.Error.Code == "not_found" && a.Name != "" && a.Name == query.Get("name") && a.ID == query.Get("id"):
		return issuer.Proving(issuer.ProvesGone, err)
	case resp.StatusCode == http.StatusConflict:
		// The name is random, so what has it may be of this very request, sent twice on
		// the way.
		return issuer.Indefinite(err, "what has the name may be what was asked for")
	}
	return err
}

// capabilities asks the broker what it can do.
func (b *broker) capabilities(ctx context.Context) (issuer.Settings, error) {
	var said struct {
		Operations  issuer.List[string] `json:"operations"`
		MaxLifetime int64               `json:"max_lifetime_seconds"`
	}
	if err := b.call(ctx, http.MethodGet, "", nil, nil, &said); err != nil {
		return nil, err
	}
	ops := slices.DeleteFunc([]string{opMint, opFind, opRevoke, opCheck, opRotateRoot}, func(op string) bool { return !slices.Contains(said.Operations, op) })
	switch {
	case !operations(ops).has(opMint):
		return nil, issuer.Malformedf(`the answer says that the broker cannot mint: its "operations" must have %q`, opMint)
	case said.MaxLifetime < 0 || said.MaxLifetime > maxLifetimeSeconds:
		return nil, issuer.Malformedf(`the answer has a "max_lifetime_seconds" that is no number of seconds from 1 to %d; without it there is no limit`, maxLifetimeSeconds)
	}
	declared := issuer.Settings{fieldOperations: strings.Join(ops, ",")}
	if said.MaxLifetime > 0 {
		declared[fieldMaxLifetime] = (time.Duration(said.MaxLifetime) * time.Second).String()
	}
	return declared, nil
}

// operations returns what the broker can do. A connection that was stored without a
// check asks each time.
func (b *broker) operations(ctx context.Context) (operations, error) {
	declared := b.conn.Declared
	if declared[fieldOperations] == "" {
		var err error
		if declared, err = b.capabilities(ctx); err != nil {
			return nil, err
		}
	}
	return operationsOf(declared), nil
}

// Check implements [issuer.Issuer].
func (b *broker) Check(ctx context.Context) (issuer.Status, error) {
	declared, err := b.capabilities(ctx)
	if err != nil {
		return issuer.Status{}, err
	}
	ops := operationsOf(declared)
	status := issuer.Status{Identity: b.auth.String(), Declared: declared}
	if !ops.has(opRevoke) {
		status.Warnings = append(status.Warnings, "the broker cannot revoke, so each credential works until it expires, also after its lease has ended")
	} else if !ops.has(opFind) {
		status.Warnings = append(status.Warnings, "the broker cannot find credentials by their names, so one that it mints in a call without an answer works until it expires")
	}
	if !ops.has(opCheck) {
		status.Warnings = append(status.Warnings, "the broker has no check, so the first mint shows whether it can mint")
		return status, nil
	}
	var said struct {
		Identity  string              `json:"identity"`
		ExpiresAt *time.Time          `json:"expires_at"`
		Warnings  issuer.List[string] `json:"warnings"`
	}
	if err := b.call(ctx, http.MethodGet, "/check", nil, nil, &said); err != nil {
		return issuer.Status{}, err
	}
	if redact.Clean(said.Identity) == "" {
		return issuer.Status{}, issuer.Malformedf(`the answer to a check has no "identity"`)
	}
	status.Identity = redact.Untrusted(said.Identity)
	if said.ExpiresAt != nil {
		status.ExpiresAt = *said.ExpiresAt
	}
	for _, warning := range said.Warnings[:min(len(said.Warnings), maxWarnings)] {
		status.Warnings = append(status.Warnings, "the broker says: "+redact.Untrusted(warning))
	}
	return status, nil
}

// idPattern are the IDs that can stand in a URL as they are.
var idPattern = regexp.MustCompile(`^[0-9A-Za-z_:-][0-9A-Za-z_.:-]{0,199}$`)

const (
	maxList     = 2 << 20 // bytes
	maxWarnings = 10

	// maxLifetimeSeconds is 50 years, which is the longest rotation_period, too.
	maxLifetimeSeconds = 50 * 365 * 24 * 3600
)

// Mint implements [issuer.Issuer].
func (b *broker) Mint(ctx context.Context, r issuer.Request) (issuer.Credential, error) {
	ops, err := b.operations(ctx)
	if err != nil {
		return issuer.Credential{}, issuer.NothingDone(err)
	}
	in := map[string]any{"name": r.Name, "expires_at": wholeSecond(r.ExpiresAt).Format(time.RFC3339), "scopes": []string{}, "registries": b.registries()}
	if scopes := r.For[fieldScopes]; scopes != "" {
		in["scopes"] = strings.Split(scopes, ",")
	}
	var out struct {
		answer
		Username   string              `json:"username"`
		Password   string              `json:"password"`
		ExpiresAt  json.RawMessage     `json:"expires_at"`
		Registries issuer.List[string] `json:"registries"`
	}
	if err := b.call(ctx, http.MethodPost, "/credentials", nil, in, &out); err != nil {
		return issuer.Credential{}, err
	}
	switch {
	case out.Name != r.Name:
		return issuer.Credential{}, issuer.Malformedf(`the answer to a mint is not about the credential that was asked for: its "name" must be %q`, r.Name)
	case ops.has(opRevoke) && !idPattern.MatchString(out.ID):
		return issuer.Credential{}, issuer.Malformedf(`the answer to a mint has no "id" of at most 200 letters, digits or any of _.:-`)
	case out.Username == "" || out.Password == "":
		return issuer.Credential{}, issuer.Malformedf(`the answer to a mint has no "username" or no "password"`)
	}
	if err := b.checkRegistries(out.Registries); err != nil {
		return issuer.Credential{}, err
	}
	minted := issuer.Credential{Username: out.Username, Password: dockerconfig.NewSecret(out.Password)}
	if ops.has(opRevoke) {
		minted.ID = out.ID
	}
	if string(out.ExpiresAt) == "null" && ops.has(opRevoke) && ops.has(opFind) {
		return minted, nil
	}
	if json.Unmarshal(out.ExpiresAt, &minted.ExpiresAt) != nil || minted.ExpiresAt.IsZero() {
		return issuer.Credential{}, issuer.Malformedf(`the answer to a mint has no "expires_at" in RFC 3339; only a broker that can find and revoke may answer null, for a credential that does not end`)
	}
	return minted, nil
}

// wholeSecond rounds up, so that a credential outlives its lease.
func wholeSecond(t time.Time) time.Time {
	return t.Add(time.Second - 1).UTC().Truncate(time.Second)
}

// registries returns the registries of the connection, as in image names.
func (b *broker) registries() []string {
	names := make([]string, len(b.conn.Registries))
	for i, key := range b.conn.Registries {
		names[i] = key.ImageName()
	}
	return names
}

// checkRegistries refuses a credential that is not for the registries of the connection,
// if the broker says for which it is.
func (b *broker) checkRegistries(named []string) error {
	if len(named) == 0 {
		return nil
	}
	var keys []dockerconfig.Key
	for _, name := range named {
		key, _, err := dockerconfig.ParseKey(name)
		if err != nil {
			return issuer.Malformedf("the answer names a registry that is none: %s", redact.Untrusted(name))
		}
		keys = append(keys, key)
	}
	return checkKeys(b.conn.Registries, keys)
}

// checkKeys compares the registry keys of an answer with those of the connection.
func checkKeys(want, got []dockerconfig.Key) error {
	for _, key := range got {
		if !slices.Contains(want, key) {
			return issuer.Malformedf("the answer is for registry %s, which is not in registry of the connection, so nothing of it is handed out", redact.Untrusted(key.ImageName()))
		}
	}
	for _, key := range want {
		if !slices.Contains(got, key) {
			return issuer.Malformedf("the answer has no credential for registry %s of the connection", key.ImageName())
		}
	}
	return nil
}

// Find implements [issuer.Issuer].
func (b *broker) Find(ctx context.Context, _ issuer.Settings, name string) ([]string, error) {
	if err := b.must(ctx, opFind); err != nil {
		return nil, err
	}
	var found struct {
		answer
		Credentials *issuer.List[answer] `json:"credentials"`
	}
	if err := b.call(ctx, http.MethodGet, "/credentials", url.Values{"name": {name}}, nil, &found); err != nil {
		return nil, err
	}
	if found.Name != name || found.Credentials == nil {
		return nil, issuer.Malformedf(`the answer to a search has no "credentials", or is not about the "name" that was asked for`)
	}
	var ids []string
	for _, c := range *found.Credentials {
		switch {
		case c.Name != name:
		case !idPattern.MatchString(c.ID):
			return nil, issuer.Malformedf(`the answer to a search has a credential without an "id" of at most 200 letters, digits or any of _.:-`)
		default:
			ids = append(ids, c.ID)
		}
	}
	return ids, nil
}

// must fails if a broker cannot do something. The engine does not ask for it, unless the
// connection was stored without a check.
func (b *broker) must(ctx context.Context, op string) error {
	ops, err := b.operations(ctx)
	if err == nil && !ops.has(op) {
		err = issuer.Refusedf("the broker declares that it has no %s; write the connection once without verify_connection=false, to have the engine heed it", op)
	}
	return err
}

// Revoke implements [issuer.Issuer]. Where the broker has a list, only what has the name
// in it is ended.
func (b *broker) Revoke(ctx context.Context, settings issuer.Settings, name, id string) error {
	ops, err := b.operations(ctx)
	if err != nil {
		return err
	}
	ending := issuer.Ending{
		Find: func(ctx context.Context) ([]string, error) {
			if !ops.has(opFind) {
				return []string{id}, nil
			}
			return b.Find(ctx, settings, name)
		},
		Delete: func(ctx context.Context, id string) error { return b.delete(ctx, name, id) },
	}
	return ending.End(ctx, name, id)
}

func (b *broker) delete(ctx context.Context, name, id string) error {
	if err := b.must(ctx, opRevoke); err != nil {
		return err
	}
	var ended answer
	if err := b.call(ctx, http.MethodDelete, "/credentials", url.Values{"name": {name}, "id": {id}}, nil, &ended); err != nil {
		return err
	}
	if ended.Name != name || ended.ID != id {
		return issuer.Malformedf(`the answer to a revocation is not about the "name" and "id" that were to be ended`)
	}
	return nil
}
