// SPDX-License-Identifier: MPL-2.0

package issuertest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/pluginutil"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// MountSubject is the subject of the identity tokens of [Vault].
const MountSubject = "plugin-identity:root:secret:vault-plugin-secrets-regcred_1a2b3c4d"

// Vault is the part of Vault Enterprise that makes plugin identity tokens, for one mount.
// The zero value works. Its tokens have the claims that HashiCorp documents and no
// signature: a server in memory asks it whether it has made a token.
type Vault struct {
	mu     sync.Mutex
	fault  func(context.Context) (*pluginutil.IdentityTokenResponse, error)
	asked  []pluginutil.IdentityTokenRequest
	issued map[string]claims
}

type claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience []string `json:"aud"`
	IssuedAt int64    `json:"iat"`
	Expires  int64    `json:"exp"`
}

// GenerateIdentityToken implements the method of that name of logical.SystemView.
func (v *Vault) GenerateIdentityToken(ctx context.Context, req *pluginutil.IdentityTokenRequest) (*pluginutil.IdentityTokenResponse, error) {
	v.mu.Lock()
	v.asked = append(v.asked, *req)
	fault := v.fault
	v.mu.Unlock()
	if fault != nil {
		return fault(ctx)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	made := claims{
		Issuer: "https://vault.example.com/v1/identity/oidc/plugins", Subject: MountSubject, Audience: []string{req.Audience},
		IssuedAt: now.Unix(), Expires: now.Add(req.TTL).Unix(),
	}
	text, err := json.Marshal(made)
	if err != nil {
		return nil, fmt.Errorf("encoding claims: %w", err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	token := encode([]byte(`{"alg":"RS256","kid":"1"}`)) + "." + encode(text) + "." + encode([]byte(rand.Text()))
	if v.issued == nil {
		v.issued = map[string]claims{}
	}
	v.issued[token] = made
	return &pluginutil.IdentityTokenResponse{Token: pluginutil.IdentityToken(token), TTL: req.TTL}, nil
}

// SetFault has a function answer in place of Vault; nil ends that.
func (v *Vault) SetFault(fault func(context.Context) (*pluginutil.IdentityTokenResponse, error)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fault = fault
}

// Asked returns what tokens were asked for.
func (v *Vault) Asked() []pluginutil.IdentityTokenRequest {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]pluginutil.IdentityTokenRequest{}, v.asked...)
}

// Tokens returns the tokens that were made.
func (v *Vault) Tokens() (tokens []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for token := range v.issued {
		tokens = append(tokens, token)
	}
	return tokens
}

// Source returns what an issuer asks for tokens.
func (v *Vault) Source(audience string) func(context.Context) (dockerconfig.Secret, error) {
	return func(ctx context.Context) (dockerconfig.Secret, error) {
		made, err := v.GenerateIdentityToken(ctx, &pluginutil.IdentityTokenRequest{Audience: audience, TTL: time.Hour})
		if err != nil {
			return dockerconfig.Secret{}, err
		}
		return dockerconfig.NewSecret(made.Token.Token()), nil
	}
}

// Verify reports whether the token was made by this Vault and has not ended, and returns
// its subject and its audience. A nil Vault has made none.
func (v *Vault) Verify(token string) (subject, audience string, ok bool) {
	if v == nil {
		return "", "", false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	made, known := v.issued[token]
	if !known || made.Expires <= time.Now().Unix() {
		return "", "", false
	}
	return made.Subject, made.Audience[0], true
}
