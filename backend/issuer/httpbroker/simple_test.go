// SPDX-License-Identifier: MPL-2.0

package httpbroker_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/httpbroker"
	"vault-plugin-secrets-regcred/backend/issuer/httpbroker/brokertest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }

var clock = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// answers returns an open connection to a URL with an answer, and the requests that it
// gets.
func answers(t *testing.T, status int, body string, settings issuer.Settings, registries ...dockerconfig.Key) (opened, *[]string) {
	t.Helper()
	var got []string
	server := issuertest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, _ := io.ReadAll(r.Body)
		got = append(got, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(sent)))
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	all := issuer.Settings{"protocol": "simple"}
	maps.Copy(all, settings)
	return open(t, issuertest.Subject{Type: httpbroker.Type(), Connection: issuer.Connection{
		URL: server.URL + "/path", Registries: registries, Settings: all,
		Secrets: issuer.Secrets{"token": dockerconfig.NewSecret("r00t-token")}, Now: func() time.Time { return clock },
	}}), &got
}

const (
	host   = dockerconfig.Key("registry.example.com")
	docker = `{"auths":{"registry.example.com":{"auth":"dXNlcjpwYXNz"}}}` // user:pass
)

func TestAnswersWithACredential(t *testing.T) {
	fields := func(more issuer.Settings) issuer.Settings {
		all := issuer.Settings{"username_pointer": "/u", "password_pointer": "/p", "lifetime": "12h"}
		maps.Copy(all, more)
		return all
	}
	hour := issuer.Settings{"lifetime": "1h"}
	for what, test := range map[string]struct {
		settings issuer.Settings
		body     string
		ends     time.Duration // from now
		says     string        // of an error
	}{
		"a Docker config":                     {hour, docker, time.Hour, ""},
		"one inside":                          {issuer.Settings{"lifetime": "1h", "dockerconfig_pointer": "/a/1/b~1c~0d"}, `{"a":[0,{"b/c~d":` + docker + `}]}`, time.Hour, ""},
		"one as text":                         {issuer.Settings{"lifetime": "1h", "dockerconfig_pointer": "/x"}, `{"x":"{\"auths\":{\"registry.example.com\":{\"username\":\"user\",\"password\":\"pass\"}}}"}`, time.Hour, ""},
		"one in base64":                       {issuer.Settings{"lifetime": "1h", "dockerconfig_pointer": "/x"}, `{"x":"eyJhdXRocyI6eyJyZWdpc3RyeS5leGFtcGxlLmNvbSI6eyJhdXRoIjoiZFhObGNqcHdZWE56In19fQ=="}`, time.Hour, ""},
		"one with another spelling":           {hour, `{"auths":{"https://Registry.Example.com/v2/":{"auth":"dXNlcjpwYXNz"}}}`, time.Hour, ""},
		"another registry":                    {hour, strings.ReplaceAll(docker, "registry.", "evil."), 0, "the answer is for registry evil.example.com, which is not in registry of the connection"},
		"one registry more":                   {hour, `{"auths":{"registry.example.com":{"auth":"dXNlcjpwYXNz"},"evil.example.com":{"auth":"dXNlcjpwYXNz"}}}`, 0, "registry evil.example.com"},
		"a registry below":                    {hour, strings.ReplaceAll(docker, "example.com", "example.com/team"), 0, "registry registry.example.com/team, which is not in registry"},
		"no password":                         {hour, `{"auths":{"registry.example.com":{}}}`, 0, "the answer has no usable Docker config"},
		"no Docker config":                    {hour, `{"message":"hello"}`, 0, "the answer has no usable Docker config"},
		"nothing at the pointer":              {issuer.Settings{"lifetime": "1h", "dockerconfig_pointer": "/x"}, docker, 0, "no Docker config at dockerconfig_pointer /x"},
		"no JSON":                             {hour, `<html>`, 0, "the answer is not JSON"},
		"two values":                          {hour, docker + docker, 0, "the answer is not JSON"},
		"too much":                            {hour, docker + strings.Repeat(" ", 300_000), 0, "more than 262144 bytes"},
		"fields":                              {fields(nil), `{"u":"user","p":"pass"}`, 12 * time.Hour, ""},
		"no user name":                        {fields(nil), `{"p":"pass"}`, 0, "no user name at username_pointer /u"},
		"a password that is a number":         {fields(nil), `{"u":"user","p":7}`, 0, "no password at password_pointer /p"},
		"an end":                              {fields(issuer.Settings{"expires_at_pointer": "/e"}), `{"u":"user","p":"pass","e":"2026-03-01T15:00:00+02:00"}`, time.Hour, ""},
		"an end in Unix seconds":              {fields(issuer.Settings{"expires_at_pointer": "/e"}), fmt.Sprintf(`{"u":"user","p":"pass","e":%d}`, clock.Add(time.Minute).Unix()), time.Minute, ""},
		"an end in Unix milliseconds":         {fields(issuer.Settings{"expires_at_pointer": "/e"}), fmt.Sprintf(`{"u":"user","p":"pass","e":%d}`, clock.UnixMilli()), 0, "no time at expires_at_pointer /e, neither in RFC 3339 nor in Unix seconds"},
		"no end":                              {fields(issuer.Settings{"expires_at_pointer": "/e"}), `{"u":"user","p":"pass","e":null}`, 0, "no time at expires_at_pointer /e"},
		"seconds":                             {fields(issuer.Settings{"expires_in_pointer": "/e"}), `{"u":"user","p":"pass","e":90}`, 90 * time.Second, ""},
		"seconds as text":                     {fields(issuer.Settings{"expires_in_pointer": "/e"}), `{"u":"user","p":"pass","e":"90"}`, 90 * time.Second, ""},
		"seconds that are none":               {fields(issuer.Settings{"expires_in_pointer": "/e"}), `{"u":"user","p":"pass","e":1e300}`, 0, "no number of seconds at expires_in_pointer /e"},
		"an index that is none":               {fields(issuer.Settings{"username_pointer": "/l/01"}), `{"l":["a","user"],"p":"pass"}`, 0, "no user name"},
		"an index beyond":                     {fields(issuer.Settings{"username_pointer": "/l/2"}), `{"l":["a","user"],"p":"pass"}`, 0, "no user name"},
		"an index":                            {fields(issuer.Settings{"username_pointer": "/l/1"}), `{"l":["a","user"],"p":"pass"}`, 12 * time.Hour, ""},
		"an empty name":                       {fields(issuer.Settings{"username_pointer": "/"}), `{"":"user","p":"pass"}`, 12 * time.Hour, ""},
		"a message that repeats what we sent": {hour, `{"auths":{"registry.example.com":{"auth":"r00t-token"}}}`, 0, "the answer has no usable Docker config"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			o, _ := answers(t, http.StatusOK, test.body, test.settings, host)
			minted, err := o.Mint(t.Context(), issuer.Request{Name: issuer.NewName("app"), ExpiresAt: clock.Add(24 * time.Hour)})
			if test.says != "" {
				if !issuer.IsError(err) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "r00t-token") || strings.Contains(err.Error(), "dXNlcjpwYXNz") {
					t.Errorf("want an error that says %q, got %v", test.says, err)
				}
				return
			}
			got := []any{minted.Username, minted.Password.Reveal(), minted.ExpiresAt.UTC(), minted.ID, err}
			if diff := cmp.Diff([]any{"user", "pass", clock.Add(test.ends), "", error(nil)}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Of several registries, each has the same credential.
func TestAnswerForSeveralRegistries(t *testing.T) {
	for body, says := range map[string]string{
		`{"auths":{"a.example.com":{"auth":"dXNlcjpwYXNz"},"b.example.com":{"auth":"dXNlcjpwYXNz"}}}`: "",
		`{"auths":{"a.example.com":{"auth":"dXNlcjpwYXNz"},"b.example.com":{"auth":"dXNlcjpwYXNT"}}}`: "several credentials",
		`{"auths":{"a.example.com":{"auth":"dXNlcjpwYXNz"}}}`:                                         "no credential for registry b.example.com",
	} {
		o, _ := answers(t, http.StatusOK, body, issuer.Settings{"lifetime": "1h"}, "a.example.com", "b.example.com")
		_, err := o.Mint(t.Context(), issuer.Request{Name: issuer.NewName("app"), ExpiresAt: clock.Add(time.Hour)})
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: want %q, got %v", body, says, err)
		}
	}
}

// The request asks for the end that the engine needs, rounded up, and for no more than
// lifetime.
func TestRequestsNameTheEnd(t *testing.T) {
	until := clock.Add(90*time.Minute + time.Millisecond)
	for what, test := range map[string]struct {
		settings issuer.Settings
		request  string
		ends     time.Time
	}{
		"seconds":          {issuer.Settings{"query": "expiry_seconds={seconds}&read_write=false"}, "GET /path?expiry_seconds=5401&read_write=false", until},
		"minutes":          {issuer.Settings{"query": "m={minutes}"}, "GET /path?m=91", until},
		"an end":           {issuer.Settings{"query": "e={expires_at}"}, "GET /path?e=2026-03-01T13%3A30%3A01Z", until},
		"capped":           {issuer.Settings{"query": "s={seconds}", "lifetime": "1h"}, "GET /path?s=3600", clock.Add(time.Hour)},
		"within":           {issuer.Settings{"query": "s={seconds}", "lifetime": "2h"}, "GET /path?s=5401", until},
		"a fixed lifetime": {issuer.Settings{"query": "x=1", "lifetime": "2h"}, "GET /path?x=1", clock.Add(2 * time.Hour)},
		"OPTIONS":          {issuer.Settings{"method": "OPTIONS", "query": "s={seconds}"}, "OPTIONS /path?s=5401", until},
		"a body":           {issuer.Settings{"method": "POST", "body": `{"m":{minutes},"n":"{name}"}`}, `POST /path {"m":91,"n":"regcred-app-x"}`, until},
	} {
		o, requests := answers(t, http.StatusOK, docker, test.settings, host)
		minted, err := o.Mint(t.Context(), issuer.Request{Name: "regcred-app-x", ExpiresAt: until})
		if err != nil || !minted.ExpiresAt.Equal(test.ends) {
			t.Errorf("%s: want the end %s, got %s, %v", what, test.ends, minted.ExpiresAt, err)
		}
		if diff := cmp.Diff([]string{test.request}, *requests); diff != "" {
			t.Errorf("%s: requests (-want +got):\n%s", what, diff)
		}
	}
}

// A GET may make a credential, so it is not repeated once the server has it.
func TestNoMintIsRepeated(t *testing.T) {
	for what, fault := range map[string]issuertest.Fault{
		"fails after acting": issuertest.StatusAfterActing(http.StatusInternalServerError, "boom"),
		"cuts after acting":  issuertest.CutAfterActing,
	} {
		u := brokertest.NewURL(t)
		u.InjectFault(1, u.MintMatch, fault)
		o := open(t, issuertest.Subject{Type: httpbroker.Type(), Connection: u.Connection()})
		if _, err := o.mint(t, issuer.NewName("app")); err == nil || issuer.Definite(err) {
			t.Errorf("%s: want an error that is not definite, got %v", what, err)
		}
		if got := u.Mints(); got != 1 {
			t.Errorf("%s: want one credential made, got %d", what, got)
		}
	}
}

// Nobody knows the form of a server that has no protocol, so it takes little to believe
// that it refuses. Nothing is ended or given up because of it.
func TestRefusalsOfAURL(t *testing.T) {
	for body, refused := range map[string]bool{
		`{"id":"unauthorized","message":"Unable to authenticate you"}`: true,
		`{"errors":[{"message":"Unable to authenticate you"}]}`:        true,
		`{"error":{"message":"Unable to authenticate you"}}`:           true,
		`{"error":"Unable to authenticate you"}`:                       true,
		`<html>Unable to authenticate you`:                             false,
	} {
		o, _ := answers(t, http.StatusUnauthorized, body, issuer.Settings{"lifetime": "1h"}, host)
		_, err := o.Check(t.Context())
		if issuer.IsRefused(err) != refused || refused != strings.Contains(err.Error(), ": Unable to authenticate you") {
			t.Errorf("%s: want it believed: %v, with the message, got %v", body, refused, err)
		}
	}
}
