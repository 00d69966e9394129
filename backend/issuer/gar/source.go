// SPDX-License-Identifier: MPL-2.0

package gar

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/auth/credentials/externalaccount"
	"cloud.google.com/go/compute/metadata"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/neterror"
	"vault-plugin-secrets-regcred/backend/redact"
)

const (
	// rootScope is the least scope that generateAccessToken accepts.
	rootScope = "https://www.googleapis.com/auth/iam"

	// keyAudience is the audience of what a key signs, and the address of the token
	// server unless the connection has a url.
	keyAudience = "https://oauth2.googleapis.com/token"

	// exchangeURL is where Google takes tokens of other issuers, whatever the connection's
	// fields are.
	exchangeURL = "https://sts.googleapis.com/v1/token"

	// fileVariable names a file of Vault's machine. Only who starts Vault sets it.
	fileVariable = "GOOGLE_APPLICATION_CREDENTIALS"

	// metadataTimeout caps the search for a metadata server.
	metadataTimeout = 10 * time.Second
)

// keyFile is the part of a service account's key that is used. It leaves out
// token_uri, so that a key cannot lead the engine to a server.
type keyFile struct {
	Type       string `json:"type"`
	ID         string `json:"private_key_id"`
	PrivateKey string `json:"private_key"`
	Email      string `json:"client_email"`
	Universe   string `json:"universe_domain"`
}

// rootKey is a key that is used.
type rootKey struct {
	id, email string
	private   dockerconfig.Secret // PEM
}

// parseKey reads a service account's key. Its errors repeat nothing of it.
func parseKey(text string) (rootKey, error) {
	var key keyFile
	if json.Unmarshal([]byte(text), &key) != nil {
		return rootKey{}, errors.New("service_account_key: must be the key of a Google service account, as JSON (in a shell: service_account_key=@key.json)")
	}
	switch {
	case key.Type == "external_account":
		return rootKey{}, errors.New("service_account_key: must be the key of a service account; a configuration of workload identity federation names files and addresses, so it is taken only from Vault's own machine: let GOOGLE_APPLICATION_CREDENTIALS name it there, and leave out service_account_key")
	case key.Type != "service_account":
		return rootKey{}, errors.New("service_account_key: must be the key of a service account, with type service_account in it")
	case key.Universe != "" && key.Universe != "googleapis.com":
		return rootKey{}, errors.New("service_account_key: must be a key of Google Cloud itself: other clouds (universe_domain) are not supported")
	case !accountPattern.MatchString(key.Email):
		return rootKey{}, errors.New("service_account_key: has no client_email of a service account")
	case !isRSAKey(key.PrivateKey):
		return rootKey{}, errors.New("service_account_key: has no private_key that can be read; store the key as Google made it")
	}
	return rootKey{key.ID, key.Email, dockerconfig.NewSecret(key.PrivateKey)}, nil
}

// lines returns the lines of the private key, each of which is secret.
func (k *rootKey) lines() (lines []string) {
	if k == nil {
		return nil
	}
	for line := range strings.Lines(k.private.Reveal()) {
		if line = strings.TrimSpace(line); len(line) >= 16 && !strings.HasPrefix(line, "-----") {
			lines = append(lines, line)
		}
	}
	return lines
}

func isRSAKey(text string) bool {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return false
	}
	if _, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return true
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	_, isRSA := key.(*rsa.PrivateKey)
	return err == nil && isRSA
}

// silent keeps Google's library from logging requests, with the secrets in them, if
// GOOGLE_SDK_GO_LOGGING_LEVEL is set.
var silent = slog.New(slog.DiscardHandler)

// keyToken makes a token with the key.
func (t *tokens) keyToken(ctx context.Context) (string, error) {
	provider, err := auth.New2LOTokenProvider(&auth.Options2LO{
		Email:        t.key.email,
		PrivateKey:   []byte(t.key.private.Reveal()),
		PrivateKeyID: t.key.id,
		Scopes:       []string{rootScope},
		Audience:     keyAudience,
		TokenURL:     t.endpoint("oauth2.googleapis.com", "/token"),
		Client:       t.library(),
		Logger:       silent,
	})
	if err != nil {
		return "", err
	}
	return valueOf(provider.Token(ctx))
}

// rootToken returns a token of the root credential, and whose it is.
func (t *tokens) rootToken(ctx context.Context) (token, identity string, err error) {
	switch {
	case t.key != nil:
		identity = redact.Untrusted(t.key.email)
		token, err = t.keyToken(ctx)
	case t.conn.TakesIdentityToken():
		identity = "this mount of Vault, by " + t.provider()
		token, err = t.federatedToken(ctx)
	case os.Getenv(fileVariable) != "":
		identity = "the identity that " + fileVariable + " names on Vault's machine"
		token, err = t.fileToken(ctx)
	default:
		token, identity, err = metadataToken(ctx)
	}
	if err != nil {
		return "", "", t.rootError(ctx, err)
	}
	if token == "" {
		return "", "", issuer.Malformedf("the answer of the token server has no token")
	}
	return token, identity, nil
}

func valueOf(token *auth.Token, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return token.Value, nil
}

// fileToken reads the operator's file at each use, because what it names is renewed.
func (t *tokens) fileToken(ctx context.Context) (string, error) {
	found, err := credentials.DetectDefault(&credentials.DetectOptions{Scopes: []string{rootScope}, Client: t.library(), Logger: silent})
	if err != nil {
		return "", err
	}
	return valueOf(found.Token(ctx))
}

// provider returns the name of the provider of workload identity federation.
func (t *tokens) provider() string {
	return strings.TrimPrefix(t.conn.Settings[issuer.FieldIdentityTokenAudience], "https:")
}

// federatedToken exchanges an identity token of Vault.
func (t *tokens) federatedToken(ctx context.Context) (string, error) {
	proof, err := t.conn.IdentityToken(ctx)
	if err != nil {
		return "", err
	}
	found, err := externalaccount.NewCredentials(&externalaccount.Options{ //nolint:gosec // names and an address, no secret
		Audience:             t.provider(),
		SubjectTokenType:     "urn:ietf:params:oauth:token-type:jwt",
		TokenURL:             exchangeURL,
		Scopes:               []string{rootScope},
		SubjectTokenProvider: subject{proof},
		Client:               t.library(),
		Logger:               silent,
	})
	if err != nil {
		return "", err
	}
	return valueOf(found.Token(ctx))
}

// subject gives Google's library a token that is there already.
type subject struct{ token dockerconfig.Secret }

// SubjectToken implements [externalaccount.SubjectTokenProvider].
func (s subject) SubjectToken(context.Context, *externalaccount.RequestOptions) (string, error) {
	return s.token.Reveal(), nil
}

// metadataToken asks the metadata server of Vault's machine or pod. It does not use the
// connection's client, because that refuses link-local addresses. No field of a
// connection has an influence on the address.
func metadataToken(ctx context.Context) (token, identity string, err error) {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	server := metadata.NewWithOptions(&metadata.Options{Logger: silent})
	text, err := server.GetWithContext(ctx, "instance/service-accounts/default/token?"+url.Values{"scopes": {rootScope}}.Encode())
	if err != nil {
		return "", "", err
	}
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return "", "", errors.New("the metadata server answers with something else than a token")
	}
	email, err := server.EmailWithContext(ctx, "default")
	return answer.Token, redact.Untrusted(email), err
}

// rootError is the error if the root credential gives no token.
func (t *tokens) rootError(ctx context.Context, err error) error {
	switch {
	case issuer.IsError(err):
		return issuer.Failed(err)
	case ctx.Err() != nil:
		return issuer.Failed(ctx.Err())
	case t.key != nil, t.conn.TakesIdentityToken():
		return issuer.Failed(err)
	case os.Getenv(fileVariable) == "":
		return issuer.Refusedf("no Google credentials: write service_account_key to the connection, or give them to the machine or pod that Vault runs on (%s names a file there, or the metadata server answers)", fileVariable)
	case neterror.Describe(err) != "":
		return issuer.Failed(err)
	}
	return issuer.Refusedf("the file that %s names on Vault's machine gives no token: %s", fileVariable, redact.Untrusted(err.Error()))
}

// library returns the connection's client for Google's library, which gives errors of
// package issuer.
func (t *tokens) library() *http.Client {
	client := *t.conn.HTTP
	client.Transport = refusals{client.Transport, t.key}
	return &client
}

// refusals turns a refusal of a token server into an error, without the secrets that
// were sent to it.
type refusals struct {
	inner http.RoundTripper
	key   *rootKey
}

// RoundTrip implements [http.RoundTripper].
func (r refusals) RoundTrip(req *http.Request) (*http.Response, error) {
	sent := append(sentSecrets(req), r.key.lines()...)
	resp, err := r.inner.RoundTrip(req)
	if err != nil || resp.StatusCode < http.StatusMultipleChoices {
		return resp, err
	}
	defer func() { _ = resp.Body.Close() }()
	return nil, refusal(resp, sent...)
}

// sentSecrets returns what a request to a token server proves the identity with.
func sentSecrets(req *http.Request) (secrets []string) {
	if req.GetBody == nil {
		return nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil
	}
	defer func() { _ = body.Close() }()
	var text bytes.Buffer
	if _, err := text.ReadFrom(body); err != nil {
		return nil
	}
	form, err := url.ParseQuery(text.String())
	if err != nil {
		return nil
	}
	for _, field := range []string{"assertion", "subject_token", "client_secret", "refresh_token"} {
		if value := form.Get(field); value != "" {
			secrets = append(secrets, value)
		}
	}
	return secrets
}
