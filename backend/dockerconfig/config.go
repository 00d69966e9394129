// SPDX-License-Identifier: MPL-2.0

package dockerconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"vault-plugin-secrets-regcred/backend/canonical"
)

const (
	// MaxRegistries caps the registries of one pull secret.
	MaxRegistries = 1000

	// MaxSize caps the Docker config, in bytes: Kubernetes' own limit for the data
	// of a Secret.
	MaxSize = 1 << 20
)

// Config is a Docker config with at least one credential, and at most one for each
// registry key. It is immutable, and cannot be printed.
type Config struct {
	credentials []Credential // sorted by registry key
	encoded     Secret       // what JSON returns
}

// New joins credentials into a Config. It refuses none or too many of them, one
// without a user name or password, two with the same registry key, and a result
// that Kubernetes would refuse.
func New(credentials ...Credential) (Config, error) {
	switch {
	case len(credentials) == 0:
		return Config{}, errors.New("a pull secret must hold at least one registry")
	case len(credentials) > MaxRegistries:
		return Config{}, fmt.Errorf("a pull secret must hold at most %d registries, not %d", MaxRegistries, len(credentials))
	}
	config := fromCredentials(credentials)
	if err := config.CheckComplete(); err != nil {
		return Config{}, err
	}
	for i, c := range config.credentials[1:] {
		if c.Registry == config.credentials[i].Registry {
			return Config{}, fmt.Errorf("a pull secret must hold registry %q only once", c.Registry)
		}
	}
	config.encoded = NewSecret(string(config.encode(false)))
	if size := len(config.encoded.Reveal()); size > MaxSize {
		return Config{}, fmt.Errorf("a pull secret must have at most %d bytes, Kubernetes' limit for a Secret; this one would have %d", MaxSize, size)
	}
	return config, nil
}

// CheckComplete refuses a Config with a credential that cannot pull: a tool would
// overwrite a good pull secret with it.
func (c Config) CheckComplete() error {
	for _, credential := range c.credentials {
		if credential.Username == "" || credential.Password.Reveal() == "" {
			return errors.New("a pull secret must hold a user name and a password for each registry") // the key may be what somebody pasted
		}
	}
	return nil
}

func fromCredentials(credentials []Credential) Config {
	sorted := slices.Clone(credentials)
	slices.SortFunc(sorted, func(a, b Credential) int {
		return strings.Compare(string(a.Registry), string(b.Registry))
	})
	return Config{credentials: sorted}
}

// Credentials returns the credentials, sorted by registry key.
func (c Config) Credentials() []Credential { return slices.Clone(c.credentials) }

// All ranges over the credentials, sorted by registry key.
func (c Config) All() iter.Seq[Credential] { return slices.Values(c.credentials) }

// Len returns how many credentials there are.
func (c Config) Len() int { return len(c.credentials) }

// Keys returns the registry keys, sorted.
func (c Config) Keys() []Key {
	keys := make([]Key, len(c.credentials))
	for i, credential := range c.credentials {
		keys[i] = credential.Registry
	}
	return keys
}

// Equal reports whether both hold the same credentials.
func (c Config) Equal(other Config) bool {
	return slices.EqualFunc(c.credentials, other.credentials, func(a, b Credential) bool {
		return a.Registry == b.Registry && a.Username == b.Username && a.Password.Equal(b.Password) && a.Email == b.Email
	})
}

// JSON returns the Docker config as compact JSON: the bytes that "kubectl create
// secret docker-registry" writes for the same credentials.
func (c Config) JSON() []byte { return []byte(c.encoded.Reveal()) }

// RevealJSON returns the text of [Config.JSON].
func (c Config) RevealJSON() string { return c.encoded.Reveal() }

// Size returns how many bytes JSON returns.
func (c Config) Size() int { return len(c.encoded.Reveal()) }

// AuthJSON returns the Docker config with only the field "auth" in its entries, as
// "docker login" writes it and DOCKER_AUTH_CONFIG expects it.
func (c Config) AuthJSON() []byte { return c.encode(true) }

// encode encodes the Docker config with the fields and the order of "kubectl create
// secret docker-registry".
func (c Config) encode(authOnly bool) []byte {
	size := len(`{"auths":{}}`)
	for _, credential := range c.credentials {
		size += len(`"":{"username":"","password":"","email":"","auth":""},`) + len(credential.Registry) +
			3*len(credential.Username) + 3*len(credential.Password.Reveal()) + len(credential.Email)
	}
	out := append(make([]byte, 0, size), `{"auths":{`...)
	for i, credential := range c.credentials {
		if i > 0 {
			out = append(out, ',')
		}
		out = canonical.AppendString(out, string(credential.Registry))
		out = append(out, ":{"...)
		if !authOnly {
			out = append(out, `"username":`...)
			out = canonical.AppendString(out, credential.Username)
			out = append(out, `,"password":`...)
			out = canonical.AppendString(out, credential.Password.Reveal())
			if credential.Email != "" {
				out = append(out, `,"email":`...)
				out = canonical.AppendString(out, credential.Email)
			}
			out = append(out, ',')
		}
		out = append(out, `"auth":"`...)
		out = credential.appendAuth(out)
		out = append(out, `"}`...)
	}
	return append(out, "}}"...)
}

// file is the JSON form of a Docker config, in what Decode needs of it.
type file struct {
	Auths map[Key]struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Email    string `json:"email"`
	} `json:"auths"`
}

// Decode reads back what [Config.JSON] wrote, and keeps the bytes. Unlike
// [Parse] it changes nothing, and refuses only what is no such JSON or holds a
// credential without a user name or password, so that a Config written under
// older rules stays readable.
func Decode(encoded []byte) (Config, error) {
	t := canonical.Read(string(encoded))
	if config := Scan(t); t.Done() && config.CheckComplete() == nil {
		return config, nil
	}
	var f file
	if err := json.Unmarshal(encoded, &f); err != nil || len(f.Auths) == 0 {
		return Config{}, errors.New("not a Docker config as written by this package") // err may quote a secret
	}
	credentials := make([]Credential, 0, len(f.Auths))
	for key, e := range f.Auths {
		credentials = append(credentials, Credential{
			Registry: key,
			Username: e.Username,
			Password: NewSecret(e.Password),
			Email:    e.Email,
		})
	}
	config := fromCredentials(credentials)
	config.encoded = NewSecret(string(encoded))
	if err := config.CheckComplete(); err != nil {
		return Config{}, err
	}
	return config, nil
}

// Scan reads what [Config.JSON] wrote from the start of a text, if no value of it needs
// an escape.
func Scan(t *canonical.Text) Config {
	whole := t.Rest()
	var credentials []Credential
	t.Must(`{"auths":{`)
	for more := true; more && t.OK(); more = t.Take(",") {
		c := Credential{Registry: Key(t.String())}
		t.Must(`:{"username":`)
		c.Username = t.String()
		t.Must(`,"password":`)
		c.Password = NewSecret(t.String())
		if t.Take(`,"email":`) {
			c.Email = t.String()
		}
		t.Must(`,"auth":`)
		_ = t.String()
		t.Must("}")
		if n := len(credentials); n > 0 && c.Registry <= credentials[n-1].Registry {
			t.Fail()
		}
		credentials = append(credentials, c)
	}
	t.Must("}}")
	return Config{credentials: credentials, encoded: NewSecret(whole[:len(whole)-len(t.Rest())])}
}

// Format implements [fmt.Formatter] for every verb.
func (Config) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText implements [encoding.TextMarshaler]. Use [Config.JSON] to encode a
// Config.
func (Config) MarshalText() ([]byte, error) { return []byte(redacted), nil }
