// SPDX-License-Identifier: MPL-2.0

package acr

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	loginHost = "login.microsoftonline.com"

	// managementScope and registryScope say for which service an Entra token is.
	managementScope = "https://management.azure.com/.default"
	registryScope   = "https://containerregistry.azure.net/.default"

	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

	// fileVariable names the token file of Vault's pod. The webhook of Microsoft Entra
	// Workload ID sets it. No field of a connection names a file.
	fileVariable = "AZURE_FEDERATED_TOKEN_FILE"

	maxTokenFile = 64 << 10
)

// caller sends requests of one call of the issuer.
type caller struct {
	http *http.Client
	sent []dockerconfig.Secret // in the requests, besides those of the connection
}

// signIn returns a caller, and an Entra token of the root credential for a service: the
// client credentials grant of the Microsoft identity platform.
func (r *registry) signIn(ctx context.Context, scope string) (*caller, string, error) {
	c := &caller{http: r.conn.HTTP}
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {r.conn.Settings[fieldClient]}, "scope": {scope},
	}
	if secret := r.conn.Secrets[fieldSecret].Reveal(); secret != "" {
		form.Set("client_secret", secret)
	} else {
		assertion, err := r.assertion(ctx)
		if err != nil {
			return nil, "", err
		}
		c.sent = append(c.sent, assertion)
		form.Set("client_assertion_type", assertionType)
		form.Set("client_assertion", assertion.Reveal())
	}
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := c.post(ctx, r.endpoint(loginHost)+"/"+r.conn.Settings[fieldTenant]+"/oauth2/v2.0/token", form, &answer); err != nil {
		return nil, "", err
	}
	if answer.Token == "" {
		return nil, "", issuer.Malformedf("the answer of Microsoft Entra has no token")
	}
	c.sent = append(c.sent, dockerconfig.NewSecret(answer.Token))
	return c, answer.Token, nil
}

// assertion returns a token of another issuer that Microsoft Entra trusts: of Vault, or of
// the cluster that Vault runs in.
func (r *registry) assertion(ctx context.Context) (dockerconfig.Secret, error) {
	if r.conn.TakesIdentityToken() {
		return r.conn.IdentityToken(ctx)
	}
	token, err := podToken()
	return dockerconfig.NewSecret(token), err
}

// podToken reads the token file of Vault's pod anew, because the kubelet renews it.
func podToken() (string, error) {
	path := os.Getenv(fileVariable)
	if path == "" {
		return "", issuer.Refusedf("no Azure credentials: write client_secret to the connection, or run Vault in a pod with Microsoft Entra Workload ID, where %s names a token file", fileVariable)
	}
	file, err := os.Open(filepath.Clean(path)) //nolint:gosec // only who starts Vault sets the variable
	if err != nil {
		return "", issuer.Refusedf("the file that %s names on Vault's machine cannot be read", fileVariable)
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, maxTokenFile))
	token := strings.TrimSpace(string(text))
	if err != nil || token == "" {
		return "", issuer.Refusedf("the file that %s names on Vault's machine holds no token", fileVariable)
	}
	return token, nil
}

// post sends a form, and decodes a successful answer.
func (c *caller) post(ctx context.Context, address string, form url.Values, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return issuer.Failed(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	_, err = c.do(req, out, http.StatusOK)
	return err
}

// head is an answer without its body.
type head struct {
	status int
	header http.Header
}

// do sends a request. An answer whose status is not among the wanted ones is an error;
// one with a body is decoded, if out is not nil.
func (c *caller) do(req *http.Request, out any, wanted ...int) (head, error) {
	resp, err := c.http.Do(req) //nolint:gosec // the client refuses addresses that no registry has
	if err != nil {
		return head{}, issuer.Failed(err)
	}
	defer func() { _ = resp.Body.Close() }()
	for _, status := range wanted {
		if resp.StatusCode != status {
			continue
		}
		answered := head{status, resp.Header}
		if out == nil || status == http.StatusAccepted || status == http.StatusNoContent {
			return answered, nil
		}
		return answered, issuer.Failed(json.NewDecoder(resp.Body).Decode(out))
	}
	var sent []string
	for _, secret := range c.sent {
		sent = append(sent, secret.Reveal())
	}
	return head{}, refusal(resp, sent)
}

func jsonBody(value any) (io.Reader, error) {
	text, err := json.Marshal(value)
	return bytes.NewReader(text), issuer.Failed(err)
}
