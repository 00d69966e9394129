// SPDX-License-Identifier: MPL-2.0

package gar

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// username is the user name of every access token (Artifact Registry documentation,
// "Access token" in "Configure authentication to Artifact Registry for Docker").
const username = "oauth2accesstoken"

// Check gets a token of the root credential. If the connection names the service
// account, it also mints a token for it that it throws away, because no other call of
// this API shows whether it may.
func (t *tokens) Check(ctx context.Context) (issuer.Status, error) {
	root, identity, err := t.rootToken(ctx)
	if err != nil {
		return issuer.Status{}, err
	}
	if account := t.conn.Settings[fieldAccount]; account != "" {
		if _, err := t.generate(ctx, root, account, scopes[accessPull], shortestLifetime); err != nil {
			return issuer.Status{}, err
		}
	}
	return issuer.Status{Identity: identity}, nil
}

// Mint implements [issuer.Issuer].
func (t *tokens) Mint(ctx context.Context, r issuer.Request) (issuer.Credential, error) {
	longest, err := lifetimeOf(t.conn)
	if err != nil {
		return issuer.Credential{}, issuer.Refusedf("%s", err)
	}
	root, _, err := t.rootToken(ctx)
	if err != nil {
		return issuer.Credential{}, err
	}
	needed := (r.ExpiresAt.Sub(t.conn.Now()) + time.Second - 1).Truncate(time.Second)
	return t.generate(ctx, root, t.accountOf(r.For), scopes[r.For[fieldAccess]], min(max(needed, shortestLifetime), longest))
}

// Find returns nothing, because Google has no list of tokens.
func (t *tokens) Find(context.Context, issuer.Settings, string) ([]string, error) { return nil, nil }

// Revoke does nothing, because Google has no call that ends a service account's token.
func (t *tokens) Revoke(context.Context, issuer.Settings, string, string) error { return nil }

// generate calls generateAccessToken of the IAM Service Account Credentials API.
func (t *tokens) generate(ctx context.Context, root, account, scope string, lifetime time.Duration) (issuer.Credential, error) {
	body, err := json.Marshal(map[string]any{
		"scope":    []string{scope},
		"lifetime": fmt.Sprintf("%ds", int(lifetime.Seconds())),
	})
	if err != nil {
		return issuer.Credential{}, issuer.Failed(err)
	}
	path := "/v1/projects/-/serviceAccounts/" + url.PathEscape(account) + ":generateAccessToken"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.endpoint("iamcredentials.googleapis.com", path), bytes.NewReader(body))
	if err != nil {
		return issuer.Credential{}, issuer.Failed(err)
	}
	req.Header.Set("Authorization", "Bearer "+root)
	req.Header.Set("Content-Type", "application/json")
	resp, err := t.conn.HTTP.Do(req)
	if err != nil {
		return issuer.Credential{}, issuer.Failed(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return issuer.Credential{}, t.explain(refusal(resp, append(t.key.lines(), root)...), account)
	}
	var minted struct {
		AccessToken string    `json:"accessToken"`
		ExpireTime  time.Time `json:"expireTime"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&minted); err != nil {
		return issuer.Credential{}, issuer.Failed(err)
	}
	switch {
	case minted.AccessToken == "":
		return issuer.Credential{}, issuer.Malformedf("the answer to generateAccessToken has no token")
	case minted.ExpireTime.IsZero():
		// A zero time would mean a token that never ends.
		return issuer.Credential{}, issuer.Malformedf("the answer to generateAccessToken has no time of expiry")
	}
	return issuer.Credential{Username: username, Password: dockerconfig.NewSecret(minted.AccessToken), ExpiresAt: minted.ExpireTime}, nil
}

// explain adds to a refusal of generateAccessToken what can be done.
func (t *tokens) explain(err error, account string) error {
	switch issuer.StatusOf(err) {
	case http.StatusForbidden, http.StatusNotFound:
		return issuer.Hint(err, "the root credential needs the role roles/iam.serviceAccountTokenCreator on the service account "+account)
	case http.StatusBadRequest:
		if t.conn.Settings[fieldLifetime] != "" {
			return issuer.Hint(err, "if it is about the lifetime: token_lifetime above 1h needs the constraint iam.allowServiceAccountCredentialLifetimeExtension to list "+account)
		}
	}
	return err
}
