// SPDX-License-Identifier: MPL-2.0

package issuer_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/acr"
	"vault-plugin-secrets-regcred/backend/issuer/artifactory"
	"vault-plugin-secrets-regcred/backend/issuer/dockerhub"
	"vault-plugin-secrets-regcred/backend/issuer/ecr"
	"vault-plugin-secrets-regcred/backend/issuer/gar"
	"vault-plugin-secrets-regcred/backend/issuer/gar/gartest"
	"vault-plugin-secrets-regcred/backend/issuer/gitea"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab"
	"vault-plugin-secrets-regcred/backend/issuer/harbor"
	"vault-plugin-secrets-regcred/backend/issuer/httpbroker"
	"vault-plugin-secrets-regcred/backend/issuer/quay"
	"vault-plugin-secrets-regcred/backend/leaktest"
	"vault-plugin-secrets-regcred/backend/redact"
)

const (
	fuzzedHost = "registry.example.com"
	fuzzedName = "regcred-app-aaaaaaaaaaaaaaaaaaaaaaaaaa"

	// secretHere marks where the server of a fuzzer returns the root credential,
	// and sentHere where it returns it as it was sent.
	secretHere = "{secret}"
	sentHere   = "{sent}"

	// maxCalls is how often a server of a fuzzer answers before it closes.
	maxCalls = 12
)

// theAnswer is an answer of a fuzzer's server. header has one line for each field.
type theAnswer struct {
	status uint16
	header string
	body   string
}

// fuzzedServer is a transport that gives the answers in turn, repeats the last one,
// and then fails.
type fuzzedServer struct {
	t       *testing.T
	secret  string
	sent    string // Authorization of the last request
	answers []theAnswer
	calls   int
	taken   bool // it answered a call that may change something with success
}

// RoundTrip implements [http.RoundTripper].
func (s *fuzzedServer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" || r.URL.Host != fuzzedHost {
		s.t.Errorf("a request went to %s://%s", r.URL.Scheme, r.URL.Host)
	}
	s.sent = r.Header.Get("Authorization")
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
	if s.calls++; s.calls > maxCalls {
		return nil, io.ErrUnexpectedEOF
	}
	a := s.answers[min(s.calls, len(s.answers))-1]
	resp := &http.Response{
		StatusCode: 200 + int(a.status)%400, ProtoMajor: 1, ProtoMinor: 1,
		Header:        http.Header{},
		Body:          io.NopCloser(strings.NewReader(s.spoken(a.body))),
		ContentLength: -1,
		Request:       r,
	}
	resp.Status = fmt.Sprintf("%d %s", resp.StatusCode, s.secret)
	for line := range strings.Lines(a.header) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		resp.Header.Add(name, strings.TrimSpace(s.spoken(value)))
	}
	refused := resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != http.StatusRequestTimeout ||
		resp.StatusCode == http.StatusTemporaryRedirect // the client must repeat the request elsewhere first
	signsIn := r.URL.Path == "/v2/auth/token" || strings.HasSuffix(r.URL.Path, "/oauth2/v2.0/token") // of Docker Hub, of Entra
	s.taken = s.taken || r.Method != http.MethodGet && !refused && !signsIn
	return resp, nil
}

func (s *fuzzedServer) spoken(text string) string {
	return strings.NewReplacer(secretHere, s.secret, sentHere, s.sent).Replace(text)
}

// fuzzAnswers fuzzes the answers of a server of a type. Each input is one call of the
// issuer and up to three answers.
func fuzzAnswers(f *testing.F, t issuer.Type, connections []issuer.Connection, roles []issuer.Settings, conversations [][]theAnswer) {
	anything := [][]theAnswer{
		{{0, "", ""}},
		{{0, "", "null"}},
		{{0, "", "[null]"}},
		{{0, "", "{}"}},
		{{0, "X-Next-Page: 2\nX-Total-Count: 3\nX-Total: 3", "[{}]"}},
		{{201, "Retry-After: 99999999", `{"message":"{secret}","errors":[{"message":"{secret}"}]}`}},
		{{201, "", `{"message":"{sent}","error":"{sent}","errors":[{"message":"{sent}"}]}`}},
		{{203, "WWW-Authenticate: Basic realm={secret}", `{"message":{"base":["{secret}"]},"error":"{secret}"}`}},
		{{107, "Location: https://{secret}.example.com/{secret}", ""}},
		{{300, "Content-Type: text/html", "<html>{secret}"}},
	}
	for _, answers := range slices.Concat(anything, conversations) {
		for len(answers) < 3 {
			answers = append(answers, answers[len(answers)-1])
		}
		for call := range uint8(len(fuzzedCalls)) {
			for shape := range uint8(max(len(connections), len(roles))) {
				f.Add(call, shape, answers[0].status, answers[0].header, answers[0].body,
					answers[1].status, answers[1].header, answers[1].body, answers[2].status, answers[2].header, answers[2].body)
			}
		}
	}
	f.Fuzz(func(test *testing.T, call, shape uint8, status1 uint16, header1, body1 string, status2 uint16, header2, body2 string, status3 uint16, header3, body3 string) {
		conn := connections[int(shape)%len(connections)]
		server := &fuzzedServer{t: test, secret: secretOf(conn), answers: []theAnswer{
			{status1, header1, body1}, {status2, header2, body2}, {status3, header3, body3},
		}}
		conn.URL, conn.Now = "https://"+fuzzedHost, func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }
		conn.HTTP = &http.Client{Transport: server, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		target, err := t.Target(conn, roles[int(shape)%len(roles)])
		if err != nil {
			test.Fatalf("Target: %v", err)
		}
		client, err := issuer.Open(t, conn)
		if err != nil {
			test.Fatalf("Open: %v", err)
		}
		chosen := fuzzedCalls[int(call)%len(fuzzedCalls)]
		said, err := chosen.do(test, client, target)
		for _, text := range said {
			checkShowable(test, text, server.secret)
		}
		if err == nil {
			return
		}
		if !issuer.IsError(err) && !errors.Is(err, issuer.ErrRootNotRotatable) {
			test.Errorf("want an error that is known to come from the registry, got %T: %v", err, err)
		}
		checkShowable(test, err.Error(), server.secret)
		if chosen.makes && t.AbilitiesOf(conn).Revoke && server.taken && issuer.Definite(err) {
			test.Errorf("the registry answered as if something was made, and the error is definite: %v", err)
		}
	})
}

// checkShowable fails the test if a text is not one line, or repeats the secret.
func checkShowable(t *testing.T, text, secret string) {
	t.Helper()
	var marks leaktest.Marks
	marks.Add("the secret", secret)
	if found := marks.In(text); found != nil {
		t.Errorf("repeats the secret: %q", found)
	}
	if text != redact.Clean(text) || utf8.RuneCountInString(text) > 1000 {
		t.Errorf("want a line of at most 1000 characters, got %q", text)
	}
}

// fuzzedCall is a call of the issuer; it returns the texts of a success that people
// see.
type fuzzedCall struct {
	makes bool // whether the call creates something that must be found by its name
	do    func(*testing.T, *issuer.Client, issuer.Target) (said []string, err error)
}

var fuzzedCalls = []fuzzedCall{
	{false, func(t *testing.T, c *issuer.Client, _ issuer.Target) ([]string, error) {
		status, err := c.Check(t.Context())
		if err == nil && status.Identity == "" {
			t.Error("Check: want an identity")
		}
		return append(status.Warnings, status.Identity), err
	}},
	{true, func(t *testing.T, c *issuer.Client, target issuer.Target) ([]string, error) {
		minted, err := c.Mint(t.Context(), issuer.Request{Name: fuzzedName, For: target.Settings, ExpiresAt: time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)})
		if err == nil && (minted.Username == "" || minted.Password.Reveal() == "") {
			t.Error("Mint: want a user name and a password")
		}
		return nil, err
	}},
	{false, func(t *testing.T, c *issuer.Client, target issuer.Target) ([]string, error) {
		return nil, c.Revoke(t.Context(), target.Settings, fuzzedName, "7")
	}},
	{false, func(t *testing.T, c *issuer.Client, target issuer.Target) ([]string, error) {
		return nil, c.RevokeNamed(t.Context(), target.Settings, fuzzedName)
	}},
	{true, func(t *testing.T, c *issuer.Client, _ issuer.Target) ([]string, error) {
		root, err := c.PrepareRoot(t.Context(), fuzzedName)
		if err == nil && (len(root.Secrets) == 0 || slices.Contains(root.Secrets.Reveal(), "")) {
			t.Error("PrepareRoot: want a secret")
		}
		return nil, err
	}},
	{false, func(t *testing.T, c *issuer.Client, _ issuer.Target) ([]string, error) {
		next := dockerconfig.NewSecret("the-next-one")
		return nil, c.ActivateRoot(t.Context(), issuer.Root{Secrets: issuer.Secrets{"password": next, "token": next}})
	}},
	{false, func(t *testing.T, c *issuer.Client, _ issuer.Target) ([]string, error) {
		return nil, c.DiscardRoot(t.Context(), fuzzedName)
	}},
	{false, func(t *testing.T, c *issuer.Client, _ issuer.Target) ([]string, error) {
		return nil, c.RetireRoot(t.Context(), issuer.Root{Settings: issuer.Settings{"username": "former", "access_key_id": "AKIAIOSFODNN7EXAMPLE"}, Secrets: issuer.Secrets{"password": dockerconfig.NewSecret("89abcdef0123456789abcdef0123456789abcdef"), "token": dockerconfig.NewSecret("glpat-former"), "secret_access_key": dockerconfig.NewSecret("former")}})
	}},
}

// secretOf returns the secret of a connection: of a key in JSON, a line of the private
// key, because the rest is known.
func secretOf(c issuer.Connection) string {
	secret := c.Secrets.Reveal()[0]
	var key struct {
		Private string `json:"private_key"`
	}
	if json.Unmarshal([]byte(secret), &key) == nil {
		return strings.Split(key.Private, "\n")[3]
	}
	return secret
}

// secretly returns a connection with one secret.
func secretly(field, secret string, settings issuer.Settings) issuer.Connection {
	return issuer.Connection{
		Registries: []dockerconfig.Key{fuzzedHost},
		Settings:   settings,
		Secrets:    issuer.Secrets{field: dockerconfig.NewSecret(secret)},
	}
}

func FuzzAnswersOfArtifactory(f *testing.F) {
	const (
		// {"jti":"0f3d","sub":"jfac@1/users/vault","scp":"applied-permissions/admin","aud":["*@*"]}
		token   = "eyJhbGciOiJSUzI1NiJ9.eyJqdGkiOiIwZjNkIiwic3ViIjoiamZhY0AxL3VzZXJzL3ZhdWx0Iiwic2NwIjoiYXBwbGllZC1wZXJtaXNzaW9ucy9hZG1pbiIsImF1ZCI6WyIqQCoiXX0.Q7wKx2Zr9TbNm4Vc"
		self    = `{"token_id":"0f3d","subject":"jfac@1/users/vault","issued_at":1772000000,"expiry":1779776000}`
		created = `{"token_id":"9c1e","access_token":"eyJx.y.z","expires_in":10800,"scope":"applied-permissions/groups:readers","token_type":"Bearer"}`
		none    = `{"tokens":[]}`
	)
	fuzzAnswers(f, artifactory.Type(),
		[]issuer.Connection{
			secretly("token", token, nil),
			secretly("token", token, issuer.Settings{"username": "vault", "min_token_ttl": "6h"}),
		},
		[]issuer.Settings{{"groups": "readers"}, {"project": "apps", "project_roles": "Viewer"}},
		[][]theAnswer{
			{{0, "", self}, {0, "", "MIIB"}},
			{{0, "", `{"token_id":"x","subject":"jfac@1/users/{secret}","expiry":9223372036854775807}`}},
			{{0, "", self}, {0, "", `{"tokens":[` + self + `]}`}, {0, "", created}, {0, "", `{"tokens":[{"token_id":"9c1e","description":"` + fuzzedName + `"}]}`}},
			{{0, "", created}, {0, "", `{"tokens":[{"token_id":"9c1e","description":"` + fuzzedName + `"}]}`}},
			{{0, "", `{"token_id":"9c1e","access_token":"x","expires_in":9223372036854775807}`}, {0, "", none}},
			{{0, "", created}, {0, "", none}},
			{{0, "", `{"tokens":[{"token_id":"9c1e","description":"` + fuzzedName + `"}]}`}, {4, "", ""}, {0, "", none}, {0, "", "MIIB"}},
			{{0, "", `{"tokens":null}`}},
			{{200, "", `{"code":"BAD_REQUEST","message":"Token not revocable","detail":"{secret}"}`}},
			{{201, "", `{"errors":[{"code":"UNAUTHORIZED","message":"{secret}"}]}`}, {0, "", `{"router":{"state":"HEALTHY"},"services":[{"service_id":"jfac@1","state":"UNHEALTHY"}]}`}},
			{{201, "", `{"errors":[{"code":"UNAUTHORIZED","message":"Invalid token"}]}`}, {0, "", `{"router":{"state":"HEALTHY"},"services":[]}`}},
			{{203, "", `{"errors":[{"code":"FORBIDDEN","message":"{sent}"}]}`}},
		})
}

func FuzzAnswersOfDockerHub(f *testing.F) {
	const (
		login   = `{"access_token":"eyJx.y.z"}`
		created = `{"id":"9c1e","label":"` + fuzzedName + `","token":"dckr_oat_x","expires_at":"2026-03-01T13:00:00Z","is_active":true}`
		one     = `{"total":1,"next":null,"results":[{"id":"9c1e","label":"` + fuzzedName + `"}]}`
		none    = `{"total":0,"next":null,"results":[]}`
	)
	fuzzAnswers(f, dockerhub.Type(),
		[]issuer.Connection{secretly("password", "Q7wKx2Zr9TbNm4Vc", issuer.Settings{"username": "owner", "organization": "acme"})},
		[]issuer.Settings{{"repositories": "acme/web"}, {"repositories": "acme/web,acme/api", "access": "push"}},
		[][]theAnswer{
			{{0, "", login}, {0, "", none}},
			{{0, "", login}, {1, "", created}},
			{{0, "", login}, {1, "", `{"id":"9c1e","label":"` + fuzzedName + `","token":"x","expires_at":"9999-12-31T23:59:59-24:00"}`}},
			{{0, "", login}, {0, "", one}, {4, "", ""}, {0, "", none}},
			{{0, "", login}, {0, "", one}, {4, "", ""}, {0, "", one}},
			{{0, "", login}, {0, "", `{"total":9,"next":"x","results":[{"id":"1","label":"a"}]}`}, {0, "", `{"total":8,"next":null,"results":[{}]}`}},
			{{0, "", login}, {0, "", `{"total":9223372036854775807,"next":null,"results":[null]}`}},
			{{0, "", login}, {203, "", `{"message":"{sent}","errinfo":{}}`}},
			{{0, "", login}, {200, "", `{"fields":{"a":"{secret}"},"text":"{secret}"}`}},
			{{201, "", `{"detail":"Incorrect {secret}"}`}},
			{{201, "", `{"message":"{secret}"}`}},
			{{229, "Retry-After: 60", `{"detail":"Rate limit exceeded","error":false}`}},
		})
}

func FuzzAnswersOfGitLab(f *testing.F) {
	const self = `{"id":3,"user_id":5,"name":"x","active":true,"revoked":false,"scopes":["api"],"created_at":"2026-01-01T00:00:00Z","expires_at":"2027-01-01"}`
	fuzzAnswers(f, gitlab.Type(),
		[]issuer.Connection{
			secretly("token", "glpat-Q7wKx2Zr9TbNm4Vc", nil),
			secretly("token", "glpat-Q7wKx2Zr9TbNm4Vc", issuer.Settings{"service_account_group": "group"}),
		},
		[]issuer.Settings{{"project": "group/app"}, {"group": "group", "token_type": "access_token"}},
		[][]theAnswer{
			{{0, "", self}, {0, "", `{"username":"{secret}","is_admin":true}`}},
			{{0, "", self}, {0, "", `{"username":"project_1_bot"}`}},
			{{0, "", self}, {1, "", `{"id":4,"name":"n","token":"glpat-next","user_id":5}`}},
			{{1, "", `{"id":7,"username":"gitlab+deploy-token-7","token":"gldt-x","expires_at":"2026-03-02T00:00:00.000Z"}`}},
			{{1, "", `{"id":7,"name":"n","token":"glpat-x","expires_at":"2026-03-03"}`}},
			{{1, "", `{"id":7,"username":"u","token":"t","expires_at":"9999-12-31T23:59:59-24:00"}`}},
			{{0, "X-Next-Page: 2\nX-Total: 4", `[{"id":7,"name":"` + fuzzedName + `","active":true}]`}, {4, "", ""}},
			{{0, "Link: <://>; rel=\"next\"", `[{"id":-9223372036854775808,"name":"` + fuzzedName + `"}]`}},
			{{204, "", `{"message":"404 {secret} Not Found"}`}},
			{{201, "", `{"message":"401 Unauthorized"}`}},
		})
}

func FuzzAnswersOfHarbor(f *testing.F) {
	const robot = `{"id":9,"name":"robot$team+vault","level":"project","duration":30,"expires_at":1775000000,"permissions":[{"kind":"project","namespace":"team","access":[{"resource":"robot","action":"create"},{"resource":"robot","action":"list"},{"resource":"robot","action":"delete"}]}]}`
	fuzzAnswers(f, harbor.Type(),
		[]issuer.Connection{
			secretly("password", "Q7wKx2Zr9TbNm4Vc", issuer.Settings{"username": "vault"}),
			secretly("password", "Q7wKx2Zr9TbNm4Vc", issuer.Settings{"username": "robot$team+vault"}),
			secretly("password", "Q7wKx2Zr9TbNm4Vc", issuer.Settings{"username": "robot$vault"}),
		},
		[]issuer.Settings{{"projects": "team"}, {"projects": "team"}, {"projects": "team,tools", "access": "push"}},
		[][]theAnswer{
			{{0, "", `{"user_id":4,"username":"{secret}","sysadmin_flag":true}`}, {0, "", `{"auth_mode":"db_auth"}`}},
			{{0, "", `{"user_id":4,"username":"vault"}`}, {0, "", `{"auth_mode":"{secret}"}`}},
			{{212, "", ""}, {0, "", `{"project_id":2}`}, {0, "X-Total-Count: 1", "[" + robot + "]"}},
			{{212, "", ""}, {0, "X-Total-Count: 2", "[" + robot + "]"}, {1, "", `{"id":11,"name":"robot$vault","secret":"s","expires_at":-1}`}},
			{{1, "", `{"id":7,"name":"robot$team+` + fuzzedName + `","secret":"s","expires_at":1775000000}`}},
			{{1, "", `{"id":7,"name":"` + fuzzedName + `","secret":"s","expires_at":9223372036854775807}`}},
			{{203, "", `{"errors":[{"code":"DENIED","message":"permission scope {secret}"}]}`}, {1, "", `{"id":7,"name":"x` + fuzzedName + `","secret":"s","expires_at":1}`}},
			{{0, "", `{"project_id":2}`}, {0, "X-Total-Count: 1", `[{"id":7,"name":"robot$team+` + fuzzedName + `"}]`}, {0, "", ""}},
			{{0, "X-Total-Count: -1", `[{"id":7,"name":"` + fuzzedName + `"}]`}},
			{{201, "", `{"errors":[{"code":"UNAUTHORIZED"}]}`}},
		})
}

func FuzzAnswersOfGitea(f *testing.F) {
	const token = "0123456789abcdef0123456789abcdef01234567"
	fuzzAnswers(f, gitea.Type(),
		[]issuer.Connection{
			secretly("password", "Q7wKx2Zr9TbNm4Vc", issuer.Settings{"username": "alice"}),
			secretly("password", token, issuer.Settings{"username": "alice"}),
		},
		[]issuer.Settings{{"user": "alice"}, {"user": "bob"}},
		[][]theAnswer{
			{{0, "", `{"id":1,"login":"alice","is_admin":true}`}, {0, "X-Total-Count: 1", `[{"id":7,"name":"n","token_last_eight":"01234567","scopes":["all","{secret}"]}]`}},
			{{0, "", `{"id":1,"login":"{secret}","is_admin":true}`}},
			{{0, "", `{"id":1,"login":"alice","source_id":3}`}, {201, "", `{"message":"no"}`}},
			{{0, "", `{"id":1,"login":"alice","is_admin":true}`}, {201, "", `{"message":"no"}`}},
			{{0, "", `{"id":1,"login":"alice"}`}, {0, "", `{"id":1,"login":"alice"}`}, {0, "", `[{"id":7,"name":"n","token_last_eight":"01234567","scopes":["write:user"]}]`}},
			{{1, "", `{"id":7,"name":"` + fuzzedName + `","sha1":"89abcdef0123456789abcdef0123456789abcdef"}`}},
			{{0, "X-Total-Count: 1", `[{"id":7,"name":"` + fuzzedName + `"}]`}, {4, "", ""}},
			{{0, "X-Total-Count: 1", `[{"id":7,"name":"` + fuzzedName + `"}]`}, {0, "", ""}},
			{{0, "X-Total-Count: 2", `[{"id":7,"name":"n"},null]`}},
			{{107, "Location: /api/v1/users/bob/tokens", ""}, {204, "", `{"message":"{secret}"}`}},
			{{107, "Location: /api/v1/users/{secret}/tokens", ""}},
			{{204, "", `{"message":"user redirect does not exist"}`}, {0, "", `{"login":"alice"}`}},
		})
}

func FuzzAnswersOfECR(f *testing.F) {
	const (
		xmlns   = `xmlns="https://sts.amazonaws.com/doc/2011-06-15/"`
		self    = `<GetCallerIdentityResponse ` + xmlns + `><GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/regcred</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>`
		assumed = `<AssumeRoleResponse ` + xmlns + `><AssumeRoleResult><Credentials><AccessKeyId>ASIAIOSFODNN7EXAMPLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2026-03-01T13:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`
		token   = `{"authorizationData":[{"authorizationToken":"QVdTOnBhc3N3b3Jk","expiresAt":1772409600.5,"proxyEndpoint":"https://x"}]}`
		public  = `{"authorizationData":{"authorizationToken":"QVdTOnBhc3N3b3Jk","expiresAt":1e308}}`
		refused = `<ErrorResponse><Error><Type>Sender</Type><Code>InvalidClientTokenId</Code><Message>{secret}&#10;{secret}</Message></Error></ErrorResponse>`
		keys    = `<ListAccessKeysResponse><ListAccessKeysResult><IsTruncated>true</IsTruncated><Marker>m</Marker><AccessKeyMetadata><member><AccessKeyId>AKIAIOSFODNN7EXAMPLE</AccessKeyId></member><member></member></AccessKeyMetadata></ListAccessKeysResult></ListAccessKeysResponse>`
	)
	connection := func(registry string, more issuer.Settings) issuer.Connection {
		settings := issuer.Settings{"access_key_id": "AKIAIOSFODNN7EXAMPLE"}
		for field, value := range more {
			settings[field] = value
		}
		c := secretly("secret_access_key", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY", settings)
		c.Registries = []dockerconfig.Key{dockerconfig.Key(registry)}
		return c
	}
	fuzzAnswers(f, ecr.Type(),
		[]issuer.Connection{
			connection("123456789012.dkr.ecr.eu-central-1.amazonaws.com", nil),
			connection("123456789012.dkr.ecr.eu-central-1.amazonaws.com", issuer.Settings{"role_arn": "arn:aws:iam::123456789012:role/regcred-ecr"}),
			connection("public.ecr.aws", nil),
		},
		[]issuer.Settings{{}, {"repositories": "team/app"}, {}},
		[][]theAnswer{
			{{0, "", token}},
			{{0, "", public}},
			{{0, "", self}, {0, "", token}},
			{{0, "", strings.ReplaceAll(self, "user/regcred", "{secret}:root")}, {0, "", token}},
			{{0, "", assumed}, {0, "", token}},
			{{0, "", assumed}, {0, "", self}, {0, "", token}},
			{{0, "", self}, {0, "", keys}},
			{{0, "", `<ListUserTagsResponse><ListUserTagsResult><Tags><member><Key>regcred-rotate-root</Key><Value>` + fuzzedName + `</Value></member></Tags></ListUserTagsResult></ListUserTagsResponse>`}},
			{{203, "Content-Type: text/xml", refused}},
			{{200, "X-Amzn-ErrorType: UnrecognizedClientException:{secret}", `{"__type":"com.amazon#X","message":"{secret}\nAuthorization {secret}"}`}},
		})
}

func FuzzAnswersOfHTTP(f *testing.F) {
	const (
		form    = `"protocol":"regcred-broker/v1"`
		can     = `{` + form + `,"operations":["mint","find","revoke","check","rotate-root"],"max_lifetime_seconds":3600}`
		minted  = `{` + form + `,"name":"` + fuzzedName + `","id":"7","username":"u","password":"p","expires_at":"2026-03-02T00:00:00Z"}`
		fields  = `{"a":[{"u":"user","p":"pass"}],"e":1772409600}`
		refused = `{` + form + `,"name":"` + fuzzedName + `","id":"7","error":{"code":"not_found","message":"{secret}"}}`
	)
	token := secretly("token", "Q7wKx2Zr9TbNm4Vc", nil)
	never := token
	token.Declared = issuer.Settings{"operations": "mint,find,revoke,check,rotate-root"}
	config := secretly("token", "Q7wKx2Zr9TbNm4Vc", issuer.Settings{"protocol": "simple", "query": "s={seconds}"})
	at := secretly("password", "Q7wKx2Zr9TbNm4Vc", issuer.Settings{
		"protocol": "simple", "method": "POST", "username": "alice", "username_pointer": "/a/0/u", "password_pointer": "/a/0/p", "expires_at_pointer": "/e",
	})
	fuzzAnswers(f, httpbroker.Type(), []issuer.Connection{token, never, config, at}, []issuer.Settings{{"scopes": "team/app"}, {}, {}, {}},
		[][]theAnswer{
			{{0, "", can}, {0, "", `{` + form + `,"identity":"{secret}","warnings":["{sent}"]}`}},
			{{0, "", can}, {1, "", minted}, {0, "", can}},
			{{1, "", minted}},
			{{1, "", strings.Replace(minted, `"2026-03-02T00:00:00Z"`, "null", 1)}},
			{{0, "", `{"protocol":"{secret}"}`}},
			{{204, "", refused}},
			{{201, "", strings.Replace(refused, "not_found", "unauthorized", 1)}},
			{{209, "", strings.Replace(refused, "not_found", "exists", 1)}},
			{{0, "", `{` + form + `,"name":"` + fuzzedName + `","credentials":[{"id":"7","name":"` + fuzzedName + `"},{"id":"../{secret}"},null]}`}, {0, "", minted}},
			{{1, "", `{` + form + `,"name":"` + fuzzedName + `","token":"t"}`}},
			{{0, "", `{"auths":{"` + fuzzedHost + `":{"auth":"dXNlcjpwYXNz"}}}`}},
			{{0, "", `{"auths":{"{secret}":{"auth":"{secret}"}}}`}},
			{{0, "", fields}},
		})
}

func FuzzAnswersOfQuay(f *testing.F) {
	const made = `{"name":"acme+` + fuzzedName + `","token":"t"}`
	fuzzAnswers(f, quay.Type(), []issuer.Connection{secretly("token", "Q7wKx2Zr9TbNm4Vc", issuer.Settings{"organization": "acme"})}, []issuer.Settings{{"repositories": "app"}},
		[][]theAnswer{
			{{0, "", `{"robots":[]}`}, {0, "", `{"name":"acme","is_admin":true}`}},
			{{0, "", `{"robots":[{}]}`}, {0, "", `{"name":"{secret}","is_admin":true}`}},
			{{1, "", made}, {0, "", `{"role":"read","name":"acme+` + fuzzedName + `"}`}},
			{{1, "", made}, {200, "", `{"detail":"Invalid username: {secret}","error_type":"invalid_request","status":400}`}, {4, "", ""}},
			{{1, "", made}, {200, "", `{"detail":"no"}`}, {203, "", `{}`}},
			{{200, "", `{"detail":"Existing robot with name: {secret}"}`}},
			{{203, "", `{"message":"CSRF token was invalid or missing. {secret}"}`}},
			{{201, "", `{"detail":"{sent}","error_type":"invalid_token","status":401}`}},
			{{200, "", `{"message":"Could not find robot with username: {secret}"}`}},
			{{0, "", made}, {4, "", ""}},
		})
}

func FuzzAnswersOfGAR(f *testing.F) {
	const (
		token   = `{"access_token":"ya29.root","expires_in":3599,"token_type":"Bearer"}`
		minted  = `{"accessToken":"ya29.minted","expireTime":"2026-03-01T13:00:00Z"}`
		account = "puller@acme.iam.gserviceaccount.com"
	)
	fuzzAnswers(f, gar.Type(),
		[]issuer.Connection{
			secretly("service_account_key", gartest.Key(gartest.Root), nil),
			secretly("service_account_key", gartest.Key(gartest.Root), issuer.Settings{"service_account": account, "token_lifetime": "12h"}),
		},
		[]issuer.Settings{{"service_account": account}, {"access": "push"}},
		[][]theAnswer{
			{{0, "", token}, {0, "", minted}},
			{{0, "", token}, {0, "", `{"accessToken":"ya29.minted","expireTime":"0001-01-01T00:00:00Z"}`}},
			{{0, "", token}, {203, "", `{"error":{"code":403,"message":"{sent}","status":"PERMISSION_DENIED"}}`}},
			{{0, "", token}, {201, "", `{"error":{"code":401,"message":"{secret}","status":"UNAUTHENTICATED"}}`}},
			{{200, "", `{"error":"invalid_grant","error_description":"Invalid JWT Signature. {secret}"}`}},
			{{0, "", `{"access_token":"","expires_in":-1}`}},
			{{0, "", `{"access_token":"x\ny","expires_in":1e308}`}},
		})
}

func FuzzAnswersOfACR(f *testing.F) {
	const (
		registry = "/subscriptions/00000000-1111-2222-3333-444444444444/resourceGroups/images/providers/Microsoft.ContainerRegistry/registries/acmeimages"
		entra    = `{"token_type":"Bearer","expires_in":3599,"access_token":"eyJ0eXAi.x.y"}`
		made     = `{"name":"` + fuzzedName + `","properties":{"provisioningState":"Succeeded"}}`
	)
	settings := func(more issuer.Settings) issuer.Settings {
		all := issuer.Settings{"tenant_id": "72f988bf-86f1-41af-91ab-2d7cd011db47", "client_id": "11111111-2222-3333-4444-555555555555"}
		for field, value := range more {
			all[field] = value
		}
		return all
	}
	fuzzAnswers(f, acr.Type(),
		[]issuer.Connection{
			secretly("client_secret", "Q7wKx2Zr9TbNm4Vc", settings(nil)),
			secretly("client_secret", "Q7wKx2Zr9TbNm4Vc", settings(issuer.Settings{"registry_id": registry})),
		},
		[]issuer.Settings{{}, {"scope_map": "_repositories_pull"}},
		[][]theAnswer{
			{{0, "", entra}, {0, "", `{"refresh_token":"e30.eyJpYXQiOjE3NzIzNjY0MDAsImV4cCI6MTc3MjM3MDAwMH0.e30"}`}},
			{{0, "", entra}, {0, "", `{"refresh_token":"{secret}"}`}},
			{{0, "", entra}, {1, "", made}, {0, "", `{"username":"x","passwords":[{"name":"password1","value":"p","expiry":"2026-03-02T00:00:00Z"}]}`}},
			{{0, "", entra}, {1, "", made}, {2, "Location: https://elsewhere.example.com/{secret}", ""}},
			{{0, "", entra}, {1, "", `{"name":"` + fuzzedName + `","properties":{"provisioningState":"Failed"}}`}},
			{{0, "", entra}, {204, "", `{"error":{"code":"ResourceNotFound","message":"{secret} {sent}"}}`}, {0, "", `{"value":[]}`}},
			{{0, "", entra}, {204, "", ""}, {0, "", `{"value":[null],"nextLink":"https://registry.example.com/x"}`}},
			{{0, "", entra}, {0, "", made}, {2, "", ""}},
			{{201, "", `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided. {secret}\r\nTrace ID: {secret}"}`}},
			{{0, "", entra}, {0, "", `{"properties":{"loginServer":"{secret}"}}`}, {0, "", `{"value":[]}`}},
		})
}
