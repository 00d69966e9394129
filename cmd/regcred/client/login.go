// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/redact"
)

// The auth methods. A login with jwt and with kubernetes is the same request.
const (
	MethodJWT        = "jwt"
	MethodKubernetes = "kubernetes"
	MethodCert       = "cert"
)

// minSignature is the length of the shortest signature that is redacted by itself,
// in bytes. What is shorter is none, and would redact ordinary words.
const minSignature = 16

// Auth says how to log in to Vault.
type Auth struct {
	Method   string `json:"method,omitempty"`   // jwt, kubernetes or cert
	Mount    string `json:"mount,omitempty"`    // path of the auth method; empty: the method's name
	Role     string `json:"role,omitempty"`     // role of the auth method
	CertFile string `json:"certFile,omitempty"` // of cert: PEM
	KeyFile  string `json:"keyFile,omitempty"`  // of cert: PEM; empty: in CertFile
}

// Check fills in defaults, and refuses what cannot log in. where is the field in
// the configuration that the error names.
func (a *Auth) Check(where string) error {
	switch a.Method {
	case MethodJWT, MethodKubernetes:
		if a.CertFile != "" || a.KeyFile != "" {
			return failf("%s: certFile and keyFile are only for method cert", where)
		}
	case MethodCert:
		if a.CertFile == "" {
			return failf("%s.certFile: the method cert needs it", where).do("name the node's certificate, for example /var/lib/kubelet/pki/kubelet-client-current.pem")
		}
		if a.KeyFile == "" {
			a.KeyFile = a.CertFile
		}
	default:
		return failf("%s.method: must be jwt, kubernetes or cert, not %q", where, a.Method)
	}
	if a.Mount = strings.Trim(a.Mount, "/"); a.Mount == "" {
		a.Mount = a.Method
	}
	if strings.ContainsAny(a.Mount, "?#%") || strings.Contains(a.Mount, "..") {
		return failf("%s.mount: %q is not the path of an auth method", where, a.Mount)
	}
	if a.Role == "" && a.Method != MethodCert {
		return failf("%s.role: must name the role of auth/%s to log in with", where, a.Mount)
	}
	return nil
}

// Token says what a login has given.
type Token struct {
	Policies []string
	Lifetime time.Duration
	Batch    bool // Vault stores nothing for it
}

// Login logs in with a service account's token, or with the certificate that
// [Open] was given. Later requests have the token of Vault.
func (v *Vault) Login(ctx context.Context, auth Auth, jwt string) (Token, error) {
	data := map[string]any{}
	switch auth.Method {
	case MethodCert:
		if auth.Role != "" {
			data["name"] = auth.Role
		}
	default:
		// The signature alone is a secret as well: the rest can be guessed.
		v.secrets = append(v.secrets, jwt)
		if signature := jwt[strings.LastIndex(jwt, ".")+1:]; len(signature) >= minSignature {
			v.secrets = append(v.secrets, signature)
		}
		data["role"], data["jwt"] = auth.Role, jwt
	}
	path := "auth/" + auth.Mount + "/login"
	secret, err := v.api.Logical().WriteWithContext(ctx, path, data)
	switch {
	case err != nil:
		return Token{}, (&Failure{What: "login at " + path + ": " + v.reason(err)}).do("%s", loginAdvice(status(err), auth))
	case secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "":
		return Token{}, failf("login at %s: Vault at %s answered without a token", path, v.address).do("check that auth/%s is of type %s", auth.Mount, auth.Method)
	}
	v.setToken(secret.Auth.ClientToken)
	return Token{
		Policies: clean(secret.Auth.TokenPolicies),
		Lifetime: time.Duration(secret.Auth.LeaseDuration) * time.Second,
		Batch:    isBatch(secret),
	}, nil
}

// isBatch tells a batch token by its prefix: a login does not answer with the
// token's type to this version of Vault's client.
func isBatch(secret *api.Secret) bool {
	token := secret.Auth.ClientToken
	return strings.HasPrefix(token, "hvb.") || strings.HasPrefix(token, "b.")
}

func loginAdvice(status int, auth Auth) string {
	switch {
	case status == http.StatusServiceUnavailable:
		return "unseal it, or wait until it has an active node"
	case status == http.StatusNotFound || status == http.StatusForbidden && auth.Method == MethodCert:
		return "check that an auth method is enabled at auth/" + auth.Mount
	case status == http.StatusBadRequest || status == http.StatusForbidden:
		if auth.Method == MethodCert {
			return "check the certificate against the roles of auth/" + auth.Mount
		}
		return "check role " + auth.Role + " of auth/" + auth.Mount + ": its bound audience, claims, and the cluster's issuer and keys"
	case status == http.StatusTooManyRequests:
		return "a rate limit of Vault is reached"
	}
	return "check address, network and CA"
}

func clean(all []string) []string {
	shown := make([]string, len(all))
	for i, s := range all {
		shown[i] = redact.Truncate(redact.Clean(s), 64)
	}
	return shown
}
