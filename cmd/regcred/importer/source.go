// SPDX-License-Identifier: MPL-2.0

package importer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/redact"
)

// source is one pull secret that people have: a KV secret or a Secret.
type source struct {
	name   string // path below the given one, or namespace/name
	place  string // folder or namespace; empty: the engine's root
	base   string // last part of the name
	before map[string]login
	docker dockerconfig.Config // empty if it is left out

	notes    []string // what is changed on the way, and what is doubtful
	leftOut  string   // why it cannot be a role; empty: it can
	harmless bool     // leaving it out needs nobody's decision
}

// login is what a registry is sent. It is compared, and never shown.
type login struct{ username, password dockerconfig.Secret }

func newLogin(username, password string) login {
	return login{dockerconfig.NewSecret(username), dockerconfig.NewSecret(password)}
}

func (l login) equal(other login) bool {
	return l.username.Equal(other.username) && l.password.Equal(other.password)
}

func newSource(name string) *source {
	s := &source{name: redact.Clean(name), base: name, before: map[string]login{}}
	if i := strings.LastIndex(name, "/"); i >= 0 {
		s.place, s.base = name[:i], name[i+1:]
	}
	return s
}

func (s *source) leaveOut(why string) { s.leftOut = redact.Clean(why) }

func (s *source) note(format string, args ...any) {
	s.notes = append(s.notes, redact.Clean(fmt.Sprintf(format, args...)))
}

// fromDocker takes the pull secret from the text of a Docker config.
func (s *source) fromDocker(text string) {
	keys, before := logins([]byte(text))
	s.before = before
	if slices.ContainsFunc(keys, notARegistry) {
		s.leaveOut(errNoRegistry)
		return
	}
	config, warnings, err := dockerconfig.Parse(text)
	if err != nil {
		s.leaveOut(err.Error())
		return
	}
	s.notes = append(s.notes, warnings...)
	s.use(config)
}

// fromDockercfg takes it from the older form, which has no "auths" around it.
func (s *source) fromDockercfg(text string) {
	var entries json.RawMessage
	if json.Unmarshal([]byte(text), &entries) != nil || !bytes.HasPrefix(entries, []byte("{")) {
		s.leaveOut(".dockercfg: must be a JSON object")
		return
	}
	s.fromDocker(`{"auths":` + string(entries) + `}`)
}

// fromFields takes a single credential, as the engine takes it from the fields of a
// role.
func (s *source) fromFields(registry, username, password, email string) {
	if password != "" {
		s.before[strings.TrimSpace(registry)] = newLogin(username, password)
	}
	var c dockerconfig.Credential
	for _, part := range []struct {
		field string
		read  func() ([]string, error)
	}{
		{"registry", func() (warnings []string, err error) {
			if registry, warnings, err = dockerconfig.Tidy(registry); err != nil {
				return nil, err
			}
			var more []string
			c.Registry, more, err = dockerconfig.ParseKey(registry)
			return append(warnings, more...), err
		}},
		{"username", func() (warnings []string, err error) {
			if username, warnings, err = dockerconfig.Tidy(username); err != nil {
				return nil, err
			}
			c.Username, err = dockerconfig.ParseUsername(username)
			return warnings, err
		}},
		{"password", func() (warnings []string, err error) {
			c.Password, warnings, err = dockerconfig.ParsePassword(password)
			return warnings, err
		}},
		{"email", func() (warnings []string, err error) {
			c.Email, err = dockerconfig.ParseEmail(email)
			return nil, err
		}},
	} {
		warnings, err := part.read()
		if err != nil {
			s.leaveOut(part.field + ": " + err.Error())
			return
		}
		for _, w := range warnings {
			s.note("%s: %s", part.field, w)
		}
	}
	s.notes = append(s.notes, c.Doubts()...)
	config, err := dockerconfig.New(c)
	if err != nil {
		s.leaveOut(err.Error())
		return
	}
	s.use(config)
}

// maxText is how many bytes Vault takes as one text of a request, with its escapes.
const maxText = 1 << 20

// use has the source become a role with this pull secret, unless no role can hold it.
func (s *source) use(config dockerconfig.Config) {
	if slices.ContainsFunc(config.Keys(), func(key dockerconfig.Key) bool { return notARegistry(string(key)) }) {
		s.notes = nil // they may repeat it
		s.leaveOut(errNoRegistry)
		return
	}
	if err := checkSize(config); err != nil {
		s.leaveOut(err.Error())
		return
	}
	for _, c := range config.Credentials() {
		if why := c.ShortLived(); why != "" {
			s.note("username: %s", why)
		}
	}
	s.docker = config
}

// checkSize refuses what Vault would.
func checkSize(config dockerconfig.Config) error {
	if encoded, err := json.Marshal(config.RevealJSON()); err != nil || len(encoded) > maxText {
		return fmt.Errorf("is too big: Vault takes at most %d bytes, and this is longer as JSON text", maxText)
	}
	return nil
}

const errNoRegistry = "registry: has neither a '.' nor a port, so no image name can have it; perhaps another field holds the registry"

// notARegistry reports whether a text is hardly ever a registry, although it could be
// the name of a host. Then a mapping is wrong, or a field is in the wrong place, and
// the text may be a password. It must not be shown.
func notARegistry(text string) bool {
	key, _, err := dockerconfig.ParseKey(text)
	host := key.Host()
	return err == nil && !strings.ContainsAny(host, ".:") && host != "localhost"
}

// logins returns the keys of a Docker config, and what is sent to each. It reads it as leniently as the tools that pull with it do, so
// that nothing which works today is missed in the comparison. Entries without a
// password are no login.
func logins(text []byte) (keys []string, all map[string]login) {
	all = map[string]login{}
	text = bytes.TrimSpace(text)
	if decoded, err := decodeBase64(string(text)); err == nil {
		text = decoded
	}
	var config struct {
		Auths map[string]json.RawMessage `json:"auths"`
	}
	if json.Unmarshal(text, &config) != nil {
		return nil, all
	}
	for registry, raw := range config.Auths {
		keys = append(keys, registry)
		var entry struct {
			Username, Password, Auth string
		}
		if json.Unmarshal(raw, &entry) != nil {
			continue
		}
		if entry.Auth != "" {
			decoded, err := decodeBase64(entry.Auth)
			username, password, found := strings.Cut(string(decoded), ":")
			if err != nil || !found {
				continue
			}
			entry.Username, entry.Password = username, password
		}
		if entry.Password != "" {
			all[registry] = newLogin(entry.Username, entry.Password)
		}
	}
	return keys, all
}

func decodeBase64(text string) ([]byte, error) {
	if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
		return decoded, nil
	}
	return base64.RawStdEncoding.DecodeString(text)
}
