// SPDX-License-Identifier: MPL-2.0

package dockerconfig_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

var verbs = strings.Fields("%v %+v %#v %s %+s %q %+q %#q %x %X %#x %d %o %b %c %U %e %f %g %t %p %T %30s %.3s %-9v %z")

type hidden struct {
	secret     dockerconfig.Secret
	pointer    *dockerconfig.Secret
	credential dockerconfig.Credential
	config     dockerconfig.Config
	configs    map[string]*dockerconfig.Config
	list       []dockerconfig.Secret
	anything   any
}

type visible struct {
	Secret     dockerconfig.Secret
	Pointer    *dockerconfig.Secret
	Credential dockerconfig.Credential
	Config     dockerconfig.Config
	Configs    map[string]*dockerconfig.Config
	List       []dockerconfig.Secret
	ByConfig   map[dockerconfig.Secret]string
	Anything   any
}

// holders are values that hold the marker in every way that a program does.
func holders(t *testing.T) map[string]any {
	t.Helper()
	credential := plain{"registry.example.com", "user", marker, "ci@example.com"}.credential()
	secret := credential.Password
	config := newConfig(t, plain{"registry.example.com", "user", marker, ""}, plain{"ghcr.io", "user", "more-" + marker, ""})
	configs := map[string]*dockerconfig.Config{"a": &config}
	list := []dockerconfig.Secret{secret, secret}
	inside := hidden{secret, &secret, credential, config, configs, list, config}
	outside := visible{secret, &secret, credential, config, configs, list, map[dockerconfig.Secret]string{secret: "x"}, secret}
	return map[string]any{
		"Secret":                  secret,
		"pointer to Secret":       &secret,
		"Credential":              credential,
		"pointer to Credential":   &credential,
		"Config":                  config,
		"pointer to Config":       &config,
		"credentials of a Config": config.Credentials(),
		"unexported fields":       inside,
		"pointer to unexported":   &inside,
		"exported fields":         outside,
		"pointer to exported":     &outside,
		"slice":                   []any{secret, &credential, config, []hidden{inside}},
		"array":                   [1]dockerconfig.Secret{secret},
		"map":                     map[string]any{"a": secret, "b": map[string]dockerconfig.Config{"c": config}},
		"map key":                 map[dockerconfig.Secret]int{secret: 1},
		"embedded Secret":         struct{ dockerconfig.Secret }{secret},
		"embedded Config":         struct{ dockerconfig.Config }{config},
		"embedded Credential":     struct{ dockerconfig.Credential }{credential},
		"wrapped error":           fmt.Errorf("failed with %v and %+v: %w", secret, config, errors.New("cause")),
	}
}

func TestSecretCannotBeFormatted(t *testing.T) {
	for name, value := range holders(t) {
		for _, verb := range verbs {
			holdNoSecret(t, name+" "+verb+" "+fmt.Sprintf(verb, value))
		}
		holdNoSecret(t, fmt.Sprint(value), fmt.Sprintln(value), fmt.Errorf("%w and %v", errors.New("x"), value).Error())
	}
}

func TestFormattingSecretGivesRedactedWithEveryVerb(t *testing.T) {
	secret := dockerconfig.NewSecret(marker)
	config := newConfig(t, plain{"registry.example.com", "user", marker, ""})
	for _, value := range []any{secret, &secret, config, &config, dockerconfig.Secret{}, dockerconfig.Config{}} {
		for _, verb := range verbs {
			if verb == "%p" || verb == "%T" { // fmt answers these itself
				continue
			}
			wantEqual(t, fmt.Sprintf("%T with %s", value, verb), "[redacted]", fmt.Sprintf(verb, value))
		}
	}
	credential := plain{"registry.example.com", "user", marker, "ci@example.com"}.credential()
	wantEqual(t, "%+v of a Credential", "{Registry:registry.example.com Username:user Password:[redacted] Email:ci@example.com}", fmt.Sprintf("%+v", credential))
}

func TestSecretCannotBeMarshalled(t *testing.T) {
	for name, value := range holders(t) {
		encoded, err := json.Marshal(value)
		if err != nil {
			t.Errorf("%s: json.Marshal: %v; want [redacted] in its place", name, err)
		}
		holdNoSecret(t, name+" "+string(encoded))
	}
	secret := dockerconfig.NewSecret(marker)
	for _, value := range []any{secret, &secret, newConfig(t, plain{"ghcr.io", "user", marker, ""})} {
		encoded, err := json.Marshal(value)
		if err != nil {
			t.Fatalf("json.Marshal: %v", err)
		}
		wantEqual(t, fmt.Sprintf("%T as JSON", value), `"[redacted]"`, string(encoded))
	}
}

func TestSecretCannotBeLogged(t *testing.T) {
	var log bytes.Buffer
	for format, handler := range map[string]slog.Handler{
		"text": slog.NewTextHandler(&log, nil),
		"JSON": slog.NewJSONHandler(&log, nil),
	} {
		for name, value := range holders(t) {
			log.Reset()
			logger := slog.New(handler)
			logger.Info("read", "value", value, slog.Group("group", slog.Any("value", value)))
			logger.With("value", value).Warn(fmt.Sprint(value))
			if !strings.Contains(log.String(), "value") {
				t.Errorf("%s of %s: nothing was logged", format, name)
			}
			holdNoSecret(t, format+" of "+name+" "+log.String())
		}
	}
}

func TestPanicWithSecretDoesNotTellIt(t *testing.T) {
	for name, value := range holders(t) {
		func() {
			defer func() { holdNoSecret(t, name+" "+fmt.Sprint(recover())) }()
			panic(fmt.Sprint("cannot use ", value))
		}()
	}
}

// If JSON could fill a Secret, programmers might store it.
func TestSecretCannotBeUnmarshalled(t *testing.T) {
	var credential dockerconfig.Credential
	err := json.Unmarshal([]byte(`{"Registry":"ghcr.io","Password":`+quote(marker)+`}`), &credential)
	if err == nil {
		t.Fatal("a Secret was read from JSON; want an error")
	}
	holdNoSecret(t, err.Error())
}

func TestSecretRevealsItsText(t *testing.T) {
	wantEqual(t, "Reveal", marker, dockerconfig.NewSecret(marker).Reveal())
	wantEqual(t, "Reveal of the zero Secret", "", dockerconfig.Secret{}.Reveal())
}

func TestSecretsAreEqualByText(t *testing.T) {
	secret := dockerconfig.NewSecret(marker)
	for _, row := range []struct {
		a, b dockerconfig.Secret
		want bool
	}{
		{secret, secret, true},
		{secret, dockerconfig.NewSecret(marker), true},
		{secret, dockerconfig.NewSecret(marker + "\n"), false},
		{secret, dockerconfig.Secret{}, false},
		{dockerconfig.Secret{}, dockerconfig.NewSecret(""), true},
	} {
		if got := row.a.Equal(row.b); got != row.want {
			t.Errorf("%q equal to %q: %t; want %t", row.a.Reveal(), row.b.Reveal(), got, row.want)
		}
	}
}
