// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/cliconfig"

	"vault-plugin-secrets-regcred/backend/neterror"
	"vault-plugin-secrets-regcred/backend/redact"
)

const (
	// MaxTimeout is the longest time for all that one run does. The kubelet would
	// wait for a minute, in which the pod stands still.
	MaxTimeout = 10 * time.Second

	// DefaultMount is where the docs mount the engine.
	DefaultMount = "regcred"
)

// Settings say where Vault and the engine are. Empty fields are taken from
// Vault's own environment variables, or are Vault's defaults.
type Settings struct {
	Address       string `json:"address,omitempty"`       // as VAULT_ADDR: URL, or unix:///path
	Namespace     string `json:"namespace,omitempty"`     // as VAULT_NAMESPACE
	CAFile        string `json:"caFile,omitempty"`        // as VAULT_CACERT: PEM
	TLSServerName string `json:"tlsServerName,omitempty"` // as VAULT_TLS_SERVER_NAME
	Mount         string `json:"mount,omitempty"`         // path of the engine

	addressIsFlag bool
}

// SetAddress sets an address that goes before every environment variable.
func (s *Settings) SetAddress(address string) { s.Address, s.addressIsFlag = address, true }

// ApplyEnvironment has Vault's environment variables take precedence over what
// was read from a file, as they do for Vault Agent.
func (s *Settings) ApplyEnvironment() {
	for variable, setting := range map[string]*string{
		api.EnvVaultAddress:       &s.Address,
		api.EnvVaultNamespace:     &s.Namespace,
		api.EnvVaultCACert:        &s.CAFile,
		api.EnvVaultTLSServerName: &s.TLSServerName,
		"REGCRED_MOUNT":           &s.Mount,
	} {
		if value := os.Getenv(variable); value != "" {
			*setting = value
		}
	}
}

// Vault is a Vault server, and what this process may do there.
type Vault struct {
	api     *api.Client
	address string   // fit to be shown
	mount   string   // of the engine, without slashes at its ends
	secrets []string // that requests hold
}

// Address returns the server's address. It holds no user name or password.
func (v *Vault) Address() string { return v.address }

// Mount returns the path of the engine.
func (v *Vault) Mount() string { return v.mount }

// Open prepares the requests to a server, and sends none. The client has no token.
func Open(s Settings, auth Auth) (*Vault, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, failf("Vault's environment variables cannot be used").do("check those that begin with VAULT_, for example with \"vault status\"")
	}
	if s.Address != "" {
		config.Address = s.Address
	}
	if s.addressIsFlag {
		config.AgentAddress = ""
	}
	config.CheckRetry = checkRetry
	shown, err := showAddress(config)
	if err != nil {
		return nil, err
	}
	if err := configureTLS(config, s, auth); err != nil {
		return nil, err
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, failf("the settings for Vault at %s cannot be used", shown).do("check them with \"vault status\"")
	}
	client.ClearToken()
	// VAULT_WRAP_TTL is for people: here a wrapped answer would be none.
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	if s.Namespace != "" {
		client.SetNamespace(s.Namespace)
	}
	mount := strings.Trim(s.Mount, "/")
	if mount == "" {
		mount = DefaultMount
	}
	if strings.ContainsAny(mount, "?#%") || strings.Contains(mount, "..") {
		return nil, failf("mount: %q is not the path of a secrets engine", mount)
	}
	return &Vault{api: client, address: shown, mount: mount}, nil
}

// errRedirected is an answer that would have what was sent go to another host.
var errRedirected = errors.New("it redirects to another host, as Vault does not; the token was not sent there")

// checkRetry decides about an answer whether it is asked for again, as Vault's own
// client does, except where the answer asks for a longer wait than there is time for:
// then it is the reason of the failure, and nobody waits.
//
// It refuses redirects to other hosts, which Vault's client would follow with token and
// body. Only status 307 is one of Vault: a standby names the active node with it.
func checkRetry(ctx context.Context, answer *http.Response, err error) (again bool, _ error) {
	if answer != nil && (answer.StatusCode == http.StatusMovedPermanently || answer.StatusCode == http.StatusFound) {
		if to, err := answer.Location(); err != nil || to.Hostname() != answer.Request.URL.Hostname() {
			return false, errRedirected
		}
	}
	again, err = api.DefaultRetryPolicy(ctx, answer, err)
	if !again || answer == nil {
		return again, err
	}
	now := time.Now()
	end, limited := ctx.Deadline()
	return !limited || now.Add(neterror.RetryAfter(answer.Header, now)).Before(end), err
}

// showAddress returns the address that requests will go to.
func showAddress(config *api.Config) (string, error) {
	address := config.Address
	if config.AgentAddress != "" {
		address = config.AgentAddress
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" && u.Scheme != "unix" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "unix" {
		return "", failf("the address of Vault is not a URL").do("give one such as https://vault.example.com:8200, or unix:///run/vault-agent.sock")
	}
	if u.User != nil {
		return "", failf("the address of Vault must not hold a user name or a password")
	}
	return redact.Clean(address), nil
}

func configureTLS(config *api.Config, s Settings, auth Auth) error {
	for _, file := range []string{s.CAFile, auth.CertFile, auth.KeyFile} {
		if file != "" {
			if err := CheckOwner(file); err != nil {
				return err
			}
		}
	}
	err := config.ConfigureTLS(&api.TLSConfig{
		CACert:        s.CAFile,
		TLSServerName: s.TLSServerName,
		ClientCert:    auth.CertFile,
		ClientKey:     auth.KeyFile,
	})
	if err != nil {
		return failf("the certificates for Vault cannot be used").do("check that %s are files in PEM form", strings.Join(notEmpty(s.CAFile, auth.CertFile, auth.KeyFile), ", "))
	}
	return nil
}

func notEmpty(all ...string) []string {
	var filled []string
	for _, s := range all {
		if s != "" {
			filled = append(filled, s)
		}
	}
	return filled
}

// UseCLIToken takes the token that the Vault CLI would use: from VAULT_TOKEN, or
// from the token helper, which reads ~/.vault-token. A Vault Agent may add one to
// requests that have none, so it is no error that there is none.
func (v *Vault) UseCLIToken() error {
	token := os.Getenv(api.EnvVaultToken)
	if token == "" {
		helper, err := cliconfig.DefaultTokenHelper()
		if err != nil {
			return failf("the token helper in ~/.vault cannot be used").do("check it with \"vault token lookup\"")
		}
		if token, err = helper.Get(); err != nil {
			return failf("the token of \"vault login\" cannot be read").do("check it with \"vault token lookup\"")
		}
	}
	token = strings.TrimSpace(token)
	if strings.ContainsFunc(token, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return failf("the token of VAULT_TOKEN or \"vault login\" has characters that no token has, such as a line break or a byte order mark").do("run \"vault login\" again, or set VAULT_TOKEN to the token alone")
	}
	v.setToken(token)
	return nil
}

func (v *Vault) setToken(token string) {
	if token == "" {
		return
	}
	v.secrets = append(v.secrets, token)
	v.api.SetToken(token)
}

// HasToken reports whether requests have a token.
func (v *Vault) HasToken() bool { return v.api.Token() != "" }

// Health is what a server says about itself to anyone.
type Health struct {
	Version string
	Sealed  bool
	Standby bool
}

// Health asks the server how it is. It needs no token.
func (v *Vault) Health(ctx context.Context) (Health, error) {
	health, err := v.api.Sys().HealthWithContext(ctx)
	switch {
	case err != nil:
		return Health{}, &Failure{What: v.reason(err), Do: "check address, network and CA"}
	case !health.Initialized:
		return Health{}, failf("Vault at %s is not initialised", v.address)
	}
	return Health{Version: redact.Truncate(redact.Clean(health.Version), 40), Sealed: health.Sealed, Standby: health.Standby}, nil
}
