// SPDX-License-Identifier: MPL-2.0

package httpbroker_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
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

// opened is an open connection.
type opened struct {
	*issuer.Client
	target issuer.Target
}

func open(t *testing.T, s issuertest.Subject) opened {
	t.Helper()
	client, target := s.Open(t)
	return opened{client, target}
}

func (o opened) mint(t *testing.T, name string) (issuer.Credential, error) {
	t.Helper()
	return o.Mint(t.Context(), issuer.Request{Name: name, For: o.target.Settings, ExpiresAt: time.Now().Add(time.Hour)})
}

// changed answers with what a server answers, changed: a field with the value nil is left
// out.
func changed(fields map[string]any) issuertest.Fault {
	return func(w http.ResponseWriter, r *http.Request, act http.Handler) {
		recorded := newRecorder()
		act.ServeHTTP(recorded, r)
		var body map[string]any
		if err := json.Unmarshal(recorded.Body.Bytes(), &body); err != nil {
			panic(err)
		}
		maps.Copy(body, fields)
		maps.DeleteFunc(body, func(_ string, value any) bool { return value == nil })
		w.WriteHeader(recorded.Code)
		_ = json.NewEncoder(w).Encode(body)
	}
}

// Each answer of a broker must say in which protocol it is, and be about what was asked for.
func TestAnswersThatAreNotWhatWasAskedFor(t *testing.T) {
	name := issuer.NewName("app")
	other := issuer.NewName("app")
	check := func(t *testing.T, o opened) error { _, err := o.Check(t.Context()); return err }
	mint := func(t *testing.T, o opened) error { _, err := o.mint(t, name); return err }
	find := func(t *testing.T, o opened) error {
		_, err := o.Find(t.Context(), o.target.Settings, name)
		return err
	}
	revoke := func(t *testing.T, o opened) error {
		if _, err := o.mint(t, name); err != nil {
			t.Fatal(err)
		}
		return o.RevokeNamed(t.Context(), o.target.Settings, name)
	}
	root := func(t *testing.T, o opened) error { _, err := o.PrepareRoot(t.Context(), name); return err }
	for what, test := range map[string]struct {
		call   func(*testing.T, opened) error
		method string
		path   string
		fields map[string]any
		says   string
	}{
		"no protocol":                       {check, "GET", "/v1", map[string]any{"protocol": nil}, `it has no "protocol": "regcred-broker/v1"`},
		"a later protocol":                  {check, "GET", "/v1", map[string]any{"protocol": "regcred-broker/v2"}, "the broker speaks regcred-broker/v2, and this engine speaks regcred-broker/v1 only"},
		"another type of operations":        {check, "GET", "/v1", map[string]any{"operations": "mint"}, "the answer could not be understood"},
		"no mint":                           {check, "GET", "/v1", map[string]any{"operations": []string{"find"}}, `its "operations" must have "mint"`},
		"a lifetime below zero":             {check, "GET", "/v1", map[string]any{"max_lifetime_seconds": -1}, `"max_lifetime_seconds"`},
		"no identity":                       {check, "GET", "/v1/check", map[string]any{"identity": " \n"}, `no "identity"`},
		"a mint in no protocol":             {mint, "POST", "/v1/credentials", map[string]any{"protocol": nil}, `it has no "protocol"`},
		"a mint of another":                 {mint, "POST", "/v1/credentials", map[string]any{"name": other}, "not about the credential that was asked for"},
		"a mint without ID":                 {mint, "POST", "/v1/credentials", map[string]any{"id": nil}, `no "id"`},
		"a mint with an ID as a path":       {mint, "POST", "/v1/credentials", map[string]any{"id": "../7"}, `no "id"`},
		"a mint without password":           {mint, "POST", "/v1/credentials", map[string]any{"password": ""}, `no "password"`},
		"a mint that does not say its end":  {mint, "POST", "/v1/credentials", map[string]any{"expires_at": nil}, `no "expires_at"`},
		"a mint with an end that is none":   {mint, "POST", "/v1/credentials", map[string]any{"expires_at": "tomorrow"}, `no "expires_at"`},
		"a mint for another registry":       {mint, "POST", "/v1/credentials", map[string]any{"registries": []string{"evil.example.com"}}, "the answer is for registry evil.example.com, which is not in registry of the connection"},
		"a mint for one registry more":      {mint, "POST", "/v1/credentials", map[string]any{"registries": []string{"HOST", "evil.example.com"}}, "registry evil.example.com"},
		"a mint for what is no registry":    {mint, "POST", "/v1/credentials", map[string]any{"registries": []string{"a?b"}}, "a registry that is none"},
		"a search for another":              {find, "GET", "/v1/credentials", map[string]any{"name": other}, "not about the \"name\""},
		"a search without a list":           {find, "GET", "/v1/credentials", map[string]any{"credentials": nil}, `has no "credentials"`},
		"a search with an ID that is none":  {find, "GET", "/v1/credentials", map[string]any{"credentials": []any{map[string]any{"name": name}}}, "without an \"id\""},
		"a revocation of another":           {revoke, "DELETE", "/v1/credentials", map[string]any{"name": other}, "not about the \"name\" and \"id\""},
		"a revocation of another ID":        {revoke, "DELETE", "/v1/credentials", map[string]any{"id": "99"}, "not about the \"name\" and \"id\""},
		"a root token of another name":      {root, "POST", "/v1/root", map[string]any{"name": other}, "not about the \"name\""},
		"a root token that is two":          {root, "POST", "/v1/root", map[string]any{"token": "a b"}, "has no \"token\""},
		"a mint with a version of its own":  {mint, "POST", "/v1/credentials", map[string]any{"protocol": "regcred-broker/v1.1"}, "the broker speaks regcred-broker/v1.1"},
		"a check with the secret in a name": {check, "GET", "/v1", map[string]any{"protocol": "SECRET"}, "the broker speaks [redacted]"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := brokertest.New(t)
			sub := subject(s)
			secret := sub.Connection.Secrets["token"].Reveal()
			fields := map[string]any{}
			for field, value := range test.fields {
				if list, ok := value.([]string); ok {
					value = strings.Split(strings.ReplaceAll(strings.Join(list, " "), "HOST", s.Host()), " ")
				}
				if value == "SECRET" {
					value = secret
				}
				fields[field] = value
			}
			s.InjectFault(-1, func(r *http.Request) bool { return r.Method == test.method && r.URL.Path == "/broker"+test.path }, changed(fields))
			err := test.call(t, open(t, sub))
			if !issuer.IsError(err) || issuer.Definite(err) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("want an error that is not definite and says %q, got %v", test.says, err)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the error repeats the root credential: %v", err)
			}
		})
	}
}

// What a broker says counts only in its own form, and about what was asked for.
func TestRefusalsOfABroker(t *testing.T) {
	name := issuer.NewName("app")
	for what, test := range map[string]struct {
		status             int
		body               string
		gone, refused      bool
		definite           bool
		says               string
		onMint, onDeletion bool
	}{
		"refused":               {401, `{"protocol":"regcred-broker/v1","error":{"code":"unauthorized","message":"no"}}`, false, true, true, "answered 401 Unauthorized: unauthorized: no", true, true},
		"refused by a proxy":    {401, `{"message":"no"}`, false, false, true, "does not prove that the root credential is refused", true, true},
		"another kind of 401":   {401, `{"protocol":"regcred-broker/v1","error":{"code":"unavailable","message":"no database"}}`, false, false, true, "does not prove that the root credential is refused: unavailable: no database", true, true},
		"gone":                  {404, `{"protocol":"regcred-broker/v1","name":"NAME","id":"1","error":{"code":"not_found","message":"none"}}`, true, false, true, "", false, true},
		"another is gone":       {404, `{"protocol":"regcred-broker/v1","name":"NAME","id":"2","error":{"code":"not_found","message":"none"}}`, false, false, true, "does not prove that the credential is gone", false, true},
		"gone without a name":   {404, `{"protocol":"regcred-broker/v1","error":{"code":"not_found","message":"none"}}`, false, false, true, "does not prove that the credential is gone", false, true},
		"gone in no protocol":   {404, `{"name":"NAME","id":"1","error":{"code":"not_found"}}`, false, false, true, "the answer is not in a broker's own form", false, true},
		"a later protocol":      {404, `{"protocol":"regcred-broker/v2","name":"NAME","id":"1","error":{"code":"not_found"}}`, false, false, true, "the broker speaks regcred-broker/v2", true, true},
		"the name is taken":     {409, `{"protocol":"regcred-broker/v1","error":{"code":"exists","message":"taken"}}`, false, false, false, "what has the name may be what was asked for", true, false},
		"bad request":           {400, `{"protocol":"regcred-broker/v1","error":{"code":"invalid","message":"scopes: no such project"}}`, false, false, true, "answered 400 Bad Request: invalid: scopes: no such project", true, false},
		"down":                  {503, `{"protocol":"regcred-broker/v1","error":{"code":"unavailable","message":"no database"}}`, false, false, false, "unavailable: no database", true, false},
		"a long answer":         {400, `{"protocol":"regcred-broker/v1","error":{"code":"invalid","message":"` + strings.Repeat("x", 300_000) + `"}}`, false, false, true, "not in a broker's own form", true, false},
		"the secret is said":    {400, `{"protocol":"regcred-broker/v1","error":{"code":"invalid","message":"token SECRET"}}`, false, false, true, "[redacted]", true, false},
		"the secret, as a code": {400, `{"protocol":"regcred-broker/v1","error":{"code":"SECRET"}}`, false, false, true, "[redacted]", true, false},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := brokertest.New(t)
			sub := subject(s)
			secret := sub.Connection.Secrets["token"].Reveal()
			o := open(t, sub)
			if _, err := o.mint(t, name); err != nil {
				t.Fatal(err)
			}
			body := strings.NewReplacer("NAME", name, "SECRET", secret).Replace(test.body)
			fault := issuertest.Status(test.status, body)
			try := func(call string, err error) {
				t.Helper()
				if test.gone {
					if err != nil {
						t.Errorf("%s: want no error about what is gone, got %v", call, err)
					}
					return
				}
				if err == nil || issuer.Definite(err) != test.definite || issuer.IsRefused(err) != test.refused || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), secret) {
					t.Errorf("%s: want an error, definite %v, refused %v, that says %q, got definite %v, refused %v: %v", call, test.definite, test.refused, test.says, issuer.Definite(err), issuer.IsRefused(err), err)
				}
			}
			if test.onMint {
				s.InjectFault(1, s.MintMatch, fault)
				_, err := o.mint(t, issuer.NewName("app"))
				try("Mint", err)
			}
			if test.onDeletion {
				s.InjectFault(1, issuertest.Method(http.MethodDelete), fault)
				try("Revoke", o.Revoke(t.Context(), o.target.Settings, name, "1"))
			}
		})
	}
}

// A sloppy broker ends what has an ID, whatever its name.
func TestOnlyWhatIsFoundUnderTheNameIsEnded(t *testing.T) {
	s := brokertest.New(t)
	o := open(t, subject(s))
	name := issuer.NewName("app")
	minted, err := o.mint(t, name)
	if err != nil {
		t.Fatal(err)
	}
	s.Reinstall()
	s.AddCredential("production")
	if err := o.Revoke(t.Context(), o.target.Settings, name, minted.ID); err != nil {
		t.Errorf("want no error, because the list has no such name, got %v", err)
	}
	if slices.ContainsFunc(s.Calls(), func(call string) bool { return strings.HasPrefix(call, http.MethodDelete) }) {
		t.Errorf("want no deletion, got %q", s.Calls())
	}
}

// A connection that was stored without a check does not know what its broker can do.
func TestConnectionThatWasNeverChecked(t *testing.T) {
	s := brokertest.New(t, "mint", "check")
	sub := subject(s)
	sub.Connection.Declared = nil
	o := open(t, sub)
	name := issuer.NewName("app")
	s.InjectFault(1, func(r *http.Request) bool { return !s.MintMatch(r) }, issuertest.Garbage)
	if _, err := o.mint(t, name); !issuer.Definite(err) {
		t.Errorf("want a definite error of a mint that was not asked for, got %v", err)
	}
	s.InjectFault(1, s.MintMatch, changed(map[string]any{"expires_at": "never"}))
	if _, err := o.mint(t, name); err == nil {
		t.Error("want an error, because a broker that cannot revoke must say when a credential ends")
	}
	if can := httpbroker.Type().AbilitiesOf(sub.Connection); !can.Find || !can.Revoke {
		t.Errorf("want what is unknown taken for possible, got %+v", can)
	}
	for call, err := range map[string]error{
		"Revoke":      o.Revoke(t.Context(), o.target.Settings, name, "1"),
		"RevokeNamed": o.RevokeNamed(t.Context(), o.target.Settings, name),
	} {
		if err == nil || !strings.Contains(err.Error(), "write the connection once without verify_connection=false") {
			t.Errorf("%s: want an error that says how to mend it, got %v", call, err)
		}
	}
}

// Only a broker that can find and revoke may mint what does not end.
func TestCredentialWithoutAnEnd(t *testing.T) {
	for _, test := range []struct {
		operations []string
		accepted   bool
	}{{[]string{"mint", "find", "revoke"}, true}, {[]string{"mint", "revoke"}, false}, {[]string{"mint", "find"}, false}, {[]string{"mint"}, false}} {
		s := brokertest.New(t, test.operations...)
		s.InjectFault(1, s.MintMatch, func(w http.ResponseWriter, r *http.Request, act http.Handler) {
			recorded := newRecorder()
			act.ServeHTTP(recorded, r)
			var body map[string]any
			_ = json.Unmarshal(recorded.Body.Bytes(), &body)
			body["expires_at"] = nil
			_ = json.NewEncoder(w).Encode(body)
		})
		minted, err := open(t, subject(s)).mint(t, issuer.NewName("app"))
		if accepted := err == nil && minted.ExpiresAt.IsZero(); accepted != test.accepted {
			t.Errorf("%q: want it accepted: %v, got %v, %v", test.operations, test.accepted, minted.ExpiresAt, err)
		}
	}
}

func TestTargetsOfBrokers(t *testing.T) {
	c := issuer.Connection{Declared: issuer.Settings{"operations": "mint", "max_lifetime": "12h0m0s"}}
	for scopes, want := range map[string][]string{
		"":                       {"*"},
		"team":                   {"team"},
		"team/app:pull,ops":      {"team/app:pull", "ops"},
		"Team":                   {"Team"}, // compared letter by letter
		"a@b+c_d-e.f":            {"a@b+c_d-e.f"},
		"*":                      nil,
		"team/*":                 nil,
		"a,a":                    nil,
		"a,,b":                   nil,
		"../team":                nil,
		"team/../ops":            nil,
		"team//ops":              nil,
		"team%2f..":              nil,
		"team ops":               nil,
		"team\nops":              nil,
		"tëam":                   nil,
		"/team":                  nil,
		strings.Repeat("a", 201): nil,
	} {
		got, err := httpbroker.Type().Target(c, issuer.Settings{"scopes": scopes})
		if want == nil {
			if err == nil || !strings.HasPrefix(err.Error(), "scopes: ") {
				t.Errorf("scopes %q: want an error about scopes, got %v, %v", scopes, got.Names, err)
			}
			continue
		}
		if diff := cmp.Diff(want, got.Names); diff != "" || err != nil || got.MaxLifetime != 12*time.Hour {
			t.Errorf("scopes %q (-want +got):\n%s%v, %s", scopes, diff, err, got.MaxLifetime)
		}
	}
	if _, err := httpbroker.Type().Target(issuer.Connection{Settings: issuer.Settings{"protocol": "simple", "lifetime": "1h"}}, issuer.Settings{"scopes": "a"}); err == nil {
		t.Error("want scopes refused with protocol=simple, whose url knows none")
	}
}

func TestFieldsOfConnections(t *testing.T) {
	token := issuer.Secrets{"token": dockerconfig.NewSecret("t0ken")}
	password := issuer.Secrets{"password": dockerconfig.NewSecret("pass word")}
	both := issuer.Secrets{"token": dockerconfig.NewSecret("t0ken"), "password": dockerconfig.NewSecret("p")}
	for what, test := range map[string]struct {
		settings issuer.Settings
		secrets  issuer.Secrets
		says     string // "": accepted
	}{
		"a token":                         {nil, token, ""},
		"the protocol by its name":        {issuer.Settings{"protocol": "regcred-broker/v1"}, token, ""},
		"a token in a header":             {issuer.Settings{"token_header": "x-auth-token"}, token, ""},
		"user name and password":          {issuer.Settings{"username": "u"}, password, ""},
		"a later protocol":                {issuer.Settings{"protocol": "regcred-broker/v2"}, token, "protocol: must be regcred-broker/v1 (the default), or simple"},
		"nothing to authenticate with":    {nil, nil, "token: must be set"},
		"two ways to authenticate":        {issuer.Settings{"username": "u"}, both, "token: must be left out with username and password"},
		"a user name without password":    {issuer.Settings{"username": "u"}, nil, "password: must be set with username"},
		"a password without user name":    {nil, password, "username: must be set with password"},
		"a colon in the user name":        {issuer.Settings{"username": "a:b"}, password, "username: must have no ':'"},
		"a header without token":          {issuer.Settings{"username": "u", "token_header": "X-A"}, password, "token_header: must be left out without token"},
		"a token with the scheme":         {nil, issuer.Secrets{"token": dockerconfig.NewSecret("Bearer x")}, "token: must be ASCII characters without white space"},
		"a token with a line":             {nil, issuer.Secrets{"token": dockerconfig.NewSecret("x\r\nHost: y")}, "token: must be ASCII"},
		"a header that is none":           {issuer.Settings{"token_header": "X Auth"}, token, "token_header: must be the name of a header"},
		"the header Host":                 {issuer.Settings{"token_header": "host"}, token, "token_header: must be the name of a header"},
		"a field of the other way":        {issuer.Settings{"lifetime": "1h"}, token, "lifetime: is for protocol=simple"},
		"simple":                          {issuer.Settings{"protocol": "simple", "lifetime": "12h"}, token, ""},
		"simple, the end is asked for":    {issuer.Settings{"protocol": "simple", "query": "s={seconds}"}, token, ""},
		"simple, the answer has the end":  {issuer.Settings{"protocol": "simple", "expires_in_pointer": "/a"}, token, ""},
		"simple, no end":                  {issuer.Settings{"protocol": "simple"}, token, "lifetime: must be set"},
		"simple, only a name":             {issuer.Settings{"protocol": "simple", "query": "n={name}"}, token, "lifetime: must be set"},
		"simple, two ends":                {issuer.Settings{"protocol": "simple", "expires_in_pointer": "/a", "expires_at_pointer": "/b"}, token, "expires_in_pointer: must be left out"},
		"simple, a bad lifetime":          {issuer.Settings{"protocol": "simple", "lifetime": "soon"}, token, "lifetime: must be a duration"},
		"simple, a lifetime too short":    {issuer.Settings{"protocol": "simple", "lifetime": "1s"}, token, "lifetime: must be a duration"},
		"simple, a bad method":            {issuer.Settings{"protocol": "simple", "lifetime": "1h", "method": "DELETE"}, token, "method: must be GET, POST, PUT or OPTIONS"},
		"simple, another placeholder":     {issuer.Settings{"protocol": "simple", "query": "s={second}"}, token, "query: must have no placeholder but {seconds}"},
		"simple, a placeholder as a name": {issuer.Settings{"protocol": "simple", "query": "{seconds}=1"}, token, "query: must have pairs"},
		"simple, a query with its mark":   {issuer.Settings{"protocol": "simple", "query": "?s={seconds}"}, token, "query: must have pairs"},
		"simple, a bad query":             {issuer.Settings{"protocol": "simple", "query": "s={seconds}&%zz"}, token, "query: must be the query of a URL"},
		"simple, a body with GET":         {issuer.Settings{"protocol": "simple", "lifetime": "1h", "body": "{}"}, token, "body: must be left out with method=GET"},
		"simple, a body":                  {issuer.Settings{"protocol": "simple", "method": "POST", "body": `{"m":{minutes},"n":"{name}","e":"{expires_at}"}`}, token, ""},
		"simple, a body that is no JSON":  {issuer.Settings{"protocol": "simple", "method": "POST", "body": "m={minutes}"}, token, "body: must be JSON"},
		"simple, a bad pointer":           {issuer.Settings{"protocol": "simple", "lifetime": "1h", "dockerconfig_pointer": "a"}, token, "dockerconfig_pointer: must be a JSON pointer"},
		"simple, a bad escape":            {issuer.Settings{"protocol": "simple", "lifetime": "1h", "dockerconfig_pointer": "/a~2"}, token, "dockerconfig_pointer: must have '~' only as"},
		"simple, half a credential":       {issuer.Settings{"protocol": "simple", "lifetime": "1h", "username_pointer": "/a"}, token, "password_pointer: must be set"},
		"simple, the other half":          {issuer.Settings{"protocol": "simple", "lifetime": "1h", "password_pointer": "/a"}, token, "username_pointer: must be set"},
		"simple, two credentials":         {issuer.Settings{"protocol": "simple", "lifetime": "1h", "username_pointer": "/a", "password_pointer": "/b", "dockerconfig_pointer": "/c"}, token, "dockerconfig_pointer: must be left out"},
	} {
		_, err := httpbroker.Type().New(issuer.Connection{URL: "https://broker.example.com", Settings: test.settings, Secrets: test.secrets})
		if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.HasPrefix(err.Error(), test.says)) {
			t.Errorf("%s: want %q, got %v", what, test.says, err)
		}
	}
}

// In memory, an entry such as {} takes many times the bytes that it has in JSON.
func TestListWithoutAnEndIsRefused(t *testing.T) {
	for entries, says := range map[int]string{600_000: "a list of more than 10000 entries", 1_000_000: "the answer has more than"} {
		list := "[" + strings.Repeat("{},", entries) + "{}]"
		s := brokertest.New(t)
		name := issuer.NewName("app")
		s.InjectFault(-1, issuertest.Method(http.MethodGet), issuertest.Status(http.StatusOK, `{"protocol":"regcred-broker/v1","name":"`+name+`","credentials":`+list+`}`))
		o := open(t, subject(s))
		peak := issuertest.PeakHeap(t, func() {
			if _, err := o.Find(t.Context(), o.target.Settings, name); !issuer.IsError(err) || !strings.Contains(err.Error(), says) {
				t.Errorf("%d entries: want an error that says %q, got %v", entries, says, err)
			}
		})
		if peak > 64<<20 {
			t.Errorf("%d entries: the heap grew by %d MiB, want at most 64", entries, peak>>20)
		}
	}
}

// The engine proves who it is in the way that the connection says.
func TestWaysToAuthenticate(t *testing.T) {
	for what, test := range map[string]struct {
		settings issuer.Settings
		secrets  issuer.Secrets
		header   string
		want     string
		identity string
	}{
		"bearer": {nil, issuer.Secrets{"token": dockerconfig.NewSecret("t")}, "Authorization", "Bearer t", "a token in the header Authorization"},
		"header": {issuer.Settings{"token_header": "x-auth-token"}, issuer.Secrets{"token": dockerconfig.NewSecret("t")}, "X-Auth-Token", "t", "a token in the header X-Auth-Token"},
		"basic":  {issuer.Settings{"username": "u"}, issuer.Secrets{"password": dockerconfig.NewSecret("p")}, "Authorization", "Basic dTpw", "u"},
	} {
		var got string
		server := issuertest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = r.Header.Get(test.header)
			_, _ = w.Write([]byte(`{"protocol":"regcred-broker/v1","operations":["mint"]}`))
		}))
		o := open(t, issuertest.Subject{Type: httpbroker.Type(), Connection: issuer.Connection{URL: server.URL, Settings: test.settings, Secrets: test.secrets}})
		status, err := o.Check(t.Context())
		if err != nil || got != test.want || status.Identity != test.identity {
			t.Errorf("%s: want %s: %q and the identity %q, got %q, %q, %v", what, test.header, test.want, test.identity, got, status.Identity, err)
		}
	}
}

// A connection may have been written with another way to authenticate before the old
// token was ended.
func TestOldTokenIsEndedFromAConnectionWithAPassword(t *testing.T) {
	s := brokertest.New(t)
	sub := subject(s)
	old := issuer.Root{Settings: sub.Connection.Settings, Secrets: sub.Connection.Secrets}
	sub.Connection.Settings = issuer.Settings{"username": "vault"}
	sub.Connection.Secrets = issuer.Secrets{"password": dockerconfig.NewSecret("p4ssword")}
	if err := open(t, sub).RetireRoot(t.Context(), old); err != nil || len(s.Admins()) != 0 {
		t.Errorf("want the old token ended, got %v and %v", err, s.Admins())
	}
}
