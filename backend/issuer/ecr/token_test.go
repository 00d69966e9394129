// SPDX-License-Identifier: MPL-2.0

package ecr_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/ecr"
	"vault-plugin-secrets-regcred/backend/issuer/ecr/ecrtest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// mint mints for a role, and fails the test on an error.
func mint(t *testing.T, client *issuer.Client, target issuer.Target, name string) issuer.Credential {
	t.Helper()
	minted, err := client.Mint(t.Context(), issuer.Request{Name: name, For: target.Settings, ExpiresAt: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatalf("Mint: %v", err)
	}
	return minted
}

func tryMint(t *testing.T, client *issuer.Client, target issuer.Target) error {
	t.Helper()
	_, err := client.Mint(t.Context(), issuer.Request{Name: issuer.NewName("x"), For: target.Settings, ExpiresAt: time.Now().Add(time.Hour)})
	return err
}

func wantParts(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("want an error with %q, got %v", part, err)
		}
	}
}

func TestCredentialIsLimitedToItsRepositoriesAndAccess(t *testing.T) {
	s := ecrtest.New(t)
	s.AddRole(ecrtest.RoleName, []string{ecrtest.User}, ecrtest.ExternalID, ecrtest.Everything())
	open := func(role issuer.Settings) issuer.Credential {
		client, target := subject(s, s.Connection(), role).Open(t)
		return mint(t, client, target, issuer.NewName("x"))
	}
	const pull, push, remove = "ecr:BatchGetImage", "ecr:PutImage", "ecr:BatchDeleteImage"
	for _, test := range []struct {
		role    issuer.Settings
		action  string
		name    string
		allowed bool
	}{
		{issuer.Settings{"repositories": "team/app"}, pull, "team/app", true},
		{issuer.Settings{"repositories": "team/app"}, pull, "team/app2", false},
		{issuer.Settings{"repositories": "team/app"}, push, "team/app", false},
		{issuer.Settings{"repositories": "team/*"}, pull, "team/a/b", true},
		{issuer.Settings{"repositories": "team/*"}, pull, "teams/a", false},
		{issuer.Settings{"repositories": "a/one,b/two", "access": "push"}, push, "b/two", true},
		{issuer.Settings{"repositories": "a/one,b/two", "access": "push"}, pull, "a/one", true},
		{issuer.Settings{"repositories": "a/one,b/two", "access": "push"}, push, "c/three", false},
		{issuer.Settings{"access": "push"}, remove, "a/one", false},
		{nil, pull, "any/thing", true},
		{nil, push, "any/thing", false},
	} {
		if got := s.Allows(open(test.role), test.action, ecrtest.Account, test.name); got != test.allowed {
			t.Errorf("%v: %s of %s: want %v, got %v", test.role, test.action, test.name, test.allowed, got)
		}
	}
}

func TestOneTokenServesTheRegistriesOfSeveralAccounts(t *testing.T) {
	const own, other = ecrtest.Account + ".dkr.ecr." + ecrtest.Region + ".amazonaws.com", "444455556666.dkr.ecr." + ecrtest.Region + ".amazonaws.com"
	s := ecrtest.New(t)
	s.Share("444455556666")
	c := s.Connection()
	c.Registries = []dockerconfig.Key{own, other}
	client, target := subject(s, c, s.Role()).Open(t)
	minted := mint(t, client, target, issuer.NewName("x"))
	for host, want := range map[string]int{own: 200, other: 200, "777788889999.dkr.ecr." + ecrtest.Region + ".amazonaws.com": 401} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodHead, s.URL+"/v2/team/app/manifests/latest", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		r.SetBasicAuth(minted.Username, minted.Password.Reveal())
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: want %d, got %d", host, want, resp.StatusCode)
		}
	}
}

// scopes collects the region and the service that each request is signed for.
func scopes(s *ecrtest.Server) func() []string {
	var mu sync.Mutex
	var all []string
	s.Watch(func(r *http.Request) {
		if parts := strings.Split(r.Header.Get("Authorization"), "/"); len(parts) > 3 {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, parts[2]+"/"+parts[3])
		}
	}, nil)
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

func TestPublicRegistry(t *testing.T) {
	s := ecrtest.New(t)
	s.AddRole(ecrtest.RoleName, []string{ecrtest.User}, ecrtest.ExternalID, ecrtest.Everything())
	c := s.Connection()
	c.Registries = []dockerconfig.Key{"public.ecr.aws"}
	delete(c.Settings, "region")
	signed := scopes(s)
	client, target := subject(s, c, issuer.Settings{"access": "push", "repositories": "tools/*"}).Open(t)
	minted := mint(t, client, target, issuer.NewName("x"))
	if got, want := signed(), []string{"us-east-1/sts", "us-east-1/ecr-public"}; !slices.Equal(got, want) {
		t.Errorf("want calls of %q, got %q", want, got)
	}
	if minted.Username != "AWS" || minted.ExpiresAt.IsZero() {
		t.Errorf("want the user AWS and an end, got %q and %s", minted.Username, minted.ExpiresAt)
	}
	if !s.Allows(minted, "ecr-public:PutImage", ecrtest.Account, "tools/x") || s.Allows(minted, "ecr-public:PutImage", ecrtest.Account, "other") {
		t.Error("want a credential that pushes to tools/* and nowhere else")
	}
	if _, err := client.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
}

func TestPrivateRegistryIsAskedInItsRegion(t *testing.T) {
	s := ecrtest.New(t)
	signed := scopes(s)
	client, target := subject(s, s.Connection(), s.Role()).Open(t)
	mint(t, client, target, issuer.NewName("x"))
	if got, want := signed(), []string{"eu-central-1/sts", "eu-central-1/ecr"}; !slices.Equal(got, want) {
		t.Errorf("want calls of %q, got %q", want, got)
	}
}

func TestCredentialEndsWhenAWSSays(t *testing.T) {
	s := ecrtest.New(t)
	now := time.Date(2026, 11, 24, 10, 0, 0, 250e6, time.UTC)
	s.SetNow(func() time.Time { return now })
	client, target := subject(s, s.Connection(), s.Role()).Open(t)
	minted := mint(t, client, target, issuer.NewName("x"))
	if want := now.Add(12 * time.Hour); !minted.ExpiresAt.Equal(want) {
		t.Errorf("want the end %s, got %s", want, minted.ExpiresAt)
	}
	// By then, the session that minted the token has ended.
	now = now.Add(12*time.Hour - time.Second)
	if !s.Pulls(minted, "team/app") || len(s.Living()) != 1 {
		t.Error("want a credential that pulls up to its end")
	}
	now = now.Add(2 * time.Second)
	if s.Pulls(minted, "team/app") || len(s.Living()) != 0 {
		t.Error("want a credential that has ended")
	}
}

func TestSessionIsNamedAfterTheCredential(t *testing.T) {
	s := ecrtest.New(t)
	client, target := subject(s, s.Connection(), s.Role()).Open(t)
	short := issuer.NewName("my_app")
	long := issuer.NewName(strings.Repeat("long", 20))
	mint(t, client, target, short)
	mint(t, client, target, long)
	got := s.Living()
	want := []string{"regcred-longlonglonglonglonglonglongl" + long[len(long)-27:], short}
	if slices.Sort(want); !slices.Equal(got, want) || len(got[0]) != 64 {
		t.Errorf("want the sessions %q, got %q", want, got)
	}
}

func TestCheckTellsWhoMints(t *testing.T) {
	s := ecrtest.New(t)
	for _, test := range []struct {
		name     string
		c        issuer.Connection
		identity string
		warns    string
	}{
		{"a role", s.Connection(), "arn:aws:sts::111122223333:assumed-role/regcred-ecr/regcred-check", ""},
		{"a user", s.WithKey(s.AddUser("puller", ecrtest.Reading()...)), "arn:aws:iam::111122223333:user/puller", ""},
		{"the root user", s.WithKey(s.AddUser("root", ecrtest.Everything())), "arn:aws:iam::111122223333:root", "create an IAM user or role"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, _ := subject(s, test.c, nil).Open(t)
			status, err := client.Check(t.Context())
			if err != nil || status.Identity != test.identity || !status.ExpiresAt.IsZero() {
				t.Errorf("want the identity %s, got %+v, %v", test.identity, status, err)
			}
			if got := strings.Join(status.Warnings, ""); !strings.Contains(got, test.warns) || (got == "") != (test.warns == "") {
				t.Errorf("want the warning %q, got %q", test.warns, got)
			}
		})
	}
}

func TestMissingPermissionsAreTold(t *testing.T) {
	s := ecrtest.New(t)
	admin := s.AddUser("admin", ecrtest.Everything())
	s.AddRole(ecrtest.RoleName, []string{"admin"}, ecrtest.ExternalID, ecrtest.Reading()...)
	login := ecrtest.Statement{Actions: []string{"ecr:GetAuthorizationToken"}, Resources: []string{"*"}}
	public := ecrtest.Statement{Actions: []string{"ecr-public:GetAuthorizationToken"}, Resources: []string{"*"}}
	with := func(change func(*issuer.Connection)) issuer.Connection {
		c := s.Connection()
		c.Settings["access_key_id"], c.Secrets = admin.ID, s.WithKey(admin).Secrets
		change(&c)
		return c
	}
	client, _ := subject(s, with(func(*issuer.Connection) {}), nil).Open(t)
	if _, err := client.Check(t.Context()); err != nil {
		t.Fatalf("want no error where nothing is missing, got %v", err)
	}
	for _, test := range []struct {
		name string
		c    issuer.Connection
		want []string
	}{
		{"no token for a user", s.WithKey(s.AddUser("nobody")), []string{"answered 403 Forbidden: GetAuthorizationToken: AccessDeniedException: User: arn:aws:iam::111122223333:user/nobody is not authorized to perform: ecr:GetAuthorizationToken on resource: *"}},
		{"no token for a role", with(func(c *issuer.Connection) {
			c.Settings["role_arn"] = s.AddRole("empty", []string{"admin"}, ecrtest.ExternalID)
		}), []string{"403", "assumed-role/empty/", "is not authorized to perform: ecr:GetAuthorizationToken"}},
		{"a role that trusts others", with(func(c *issuer.Connection) {
			c.Settings["role_arn"] = s.AddRole("closed", nil, ecrtest.ExternalID, login)
		}), []string{"answered 403 Forbidden: AssumeRole: AccessDenied: User: arn:aws:iam::111122223333:user/admin is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::111122223333:role/closed"}},
		{"the wrong external ID", with(func(c *issuer.Connection) { c.Settings["external_id"] = "other" }), []string{"403", "AssumeRole: AccessDenied"}},
		{"no external ID", with(func(c *issuer.Connection) { delete(c.Settings, "external_id") }), []string{"403", "AssumeRole: AccessDenied"}},
		{"no role of that name", with(func(c *issuer.Connection) { c.Settings["role_arn"] = "arn:aws:iam::111122223333:role/none" }), []string{"403", "AssumeRole: AccessDenied"}},
		{"no bearer token in public", with(func(c *issuer.Connection) {
			*c = s.WithKey(s.AddUser("half", public))
			c.Registries, c.Settings["region"] = []dockerconfig.Key{"public.ecr.aws"}, "us-east-1"
		}), []string{"403", "is not authorized to perform: sts:GetServiceBearerToken"}},
		{"a key that is gone", s.WithKey(ecrtest.Key{ID: "AKIAGONEGONEGONE", Secret: "x"}), []string{"answered 403 Forbidden: GetCallerIdentity: InvalidClientTokenId: The security token included in the request is invalid."}},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, target := subject(s, test.c, nil).Open(t)
			_, err := client.Check(t.Context())
			wantParts(t, err, test.want...)
			if err := tryMint(t, client, target); !issuer.Definite(err) {
				t.Errorf("Mint: want a definite error, got %v", err)
			}
		})
	}
}

func TestSessionTokenIsNotRepeated(t *testing.T) {
	s := ecrtest.New(t)
	var session string
	s.Watch(func(r *http.Request) {
		if token := r.Header.Get("X-Amz-Security-Token"); token != "" {
			session = token
			r.Header.Set("Amz-Sdk-Request", "changed on the way, so that the signature does not match")
		}
	}, nil)
	client, target := subject(s, s.Connection(), s.Role()).Open(t)
	err := tryMint(t, client, target)
	wantParts(t, err, "InvalidSignatureException", "does not match the signature you provided")
	if session == "" || strings.Contains(fmt.Sprint(err), session) || strings.Contains(fmt.Sprint(err), "Canonical") {
		t.Errorf("want an error without the request that AWS repeats, got %v", err)
	}
}

func TestThrottledCallsAreRepeated(t *testing.T) {
	s := ecrtest.New(t)
	s.InjectFault(1, s.MintMatch, issuertest.Status(400, `{"__type":"ThrottlingException","message":"Rate exceeded"}`))
	s.InjectFault(1, ecrtest.CallMatch("AssumeRole"), issuertest.Status(400, `<ErrorResponse><Error><Type>Sender</Type><Code>Throttling</Code><Message>Rate exceeded</Message></Error></ErrorResponse>`))
	client, target := subject(s, s.Connection(), s.Role()).Open(t)
	if minted := mint(t, client, target, issuer.NewName("x")); !s.Pulls(minted, "team/app") {
		t.Error("want a credential that pulls")
	}
	s.InjectFault(-1, s.MintMatch, issuertest.Status(400, `{"__type":"ThrottlingException","message":"Rate exceeded"}`))
	err := tryMint(t, client, target)
	wantParts(t, err, "answered 400 Bad Request: GetAuthorizationToken: ThrottlingException: Rate exceeded")
	if !issuer.Definite(err) {
		t.Errorf("want a definite error, got %v", err)
	}
}

func TestAnswersThatLackWhatTheyMustHave(t *testing.T) {
	assume := ecrtest.CallMatch("AssumeRole")
	for _, test := range []struct {
		name  string
		match func(*http.Request) bool
		body  string
		want  string
	}{
		{"no token", ecrtest.MintMatch, `{"authorizationData":[]}`, "has no token"},
		{"an empty token", ecrtest.MintMatch, `{"authorizationData":[{"expiresAt":1795000000}]}`, "not base64 of user:password"},
		{"not base64", ecrtest.MintMatch, `{"authorizationData":[{"authorizationToken":"QVdTOmFiYw=","expiresAt":1795000000}]}`, "not base64 of user:password"},
		{"no colon", ecrtest.MintMatch, `{"authorizationData":[{"authorizationToken":"QVdT","expiresAt":1795000000}]}`, "not base64 of user:password"},
		{"no password", ecrtest.MintMatch, `{"authorizationData":[{"authorizationToken":"QVdTOg==","expiresAt":1795000000}]}`, "not base64 of user:password"},
		{"no user", ecrtest.MintMatch, `{"authorizationData":[{"authorizationToken":"OmFiYw==","expiresAt":1795000000}]}`, "not base64 of user:password"},
		{"no end", ecrtest.MintMatch, `{"authorizationData":[{"authorizationToken":"QVdTOmFiYw=="}]}`, "has no expiry time"},
		{"no session", assume, `<AssumeRoleResponse><AssumeRoleResult></AssumeRoleResult></AssumeRoleResponse>`, "AssumeRole has no credentials"},
		{"half a session", assume, `<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>x</SecretAccessKey></Credentials></AssumeRoleResult></AssumeRoleResponse>`, "AssumeRole has no credentials"},
		{"another answer", assume, `<html>welcome</html>`, "could not be understood"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := ecrtest.New(t)
			s.InjectFault(-1, test.match, issuertest.Status(200, test.body))
			client, target := subject(s, s.Connection(), s.Role()).Open(t)
			err := tryMint(t, client, target)
			wantParts(t, err, test.want)
			if issuer.Definite(err) {
				t.Errorf("want an error that is not definite, got %v", err)
			}
		})
	}
	t.Run("no public token", func(t *testing.T) {
		s := ecrtest.New(t)
		s.InjectFault(-1, s.MintMatch, issuertest.Status(200, `{}`))
		c := s.WithKey(s.AddUser("x", ecrtest.Everything()))
		c.Registries, c.Settings["region"] = []dockerconfig.Key{"public.ecr.aws"}, "us-east-1"
		client, target := subject(s, c, nil).Open(t)
		wantParts(t, tryMint(t, client, target), "has no token")
	})
	t.Run("no identity", func(t *testing.T) {
		s := ecrtest.New(t)
		s.InjectFault(-1, ecrtest.CallMatch("GetCallerIdentity"), issuertest.Status(200, `<GetCallerIdentityResponse><GetCallerIdentityResult></GetCallerIdentityResult></GetCallerIdentityResponse>`))
		client, _ := subject(s, s.Connection(), s.Role()).Open(t)
		_, err := client.Check(t.Context())
		wantParts(t, err, "GetCallerIdentity has no ARN")
	})
}

// useAmbientCredentials makes the environment the only source of AWS credentials.
func useAmbientCredentials(t *testing.T, key ecrtest.Key) {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": key.ID, "AWS_SECRET_ACCESS_KEY": key.Secret, "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_ROLE_ARN": "",
		"AWS_WEB_IDENTITY_TOKEN_FILE": "", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "",
		"AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_ECR": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1",
		"AWS_REGION": "ap-south-1",
	} {
		t.Setenv(name, value)
	}
}

func TestCredentialsOfTheMachine(t *testing.T) {
	s := ecrtest.New(t)
	own := func() (*issuer.Client, issuer.Target) {
		c := s.Connection()
		delete(c.Settings, "access_key_id")
		c.Secrets = nil
		return subject(s, c, s.Role()).Open(t)
	}
	useAmbientCredentials(t, s.AddKey(ecrtest.User))
	client, target := own()
	if minted := mint(t, client, target, issuer.NewName("x")); !s.Pulls(minted, "team/app") {
		t.Error("want a credential that pulls")
	}
	_, err := client.PrepareRoot(t.Context(), issuer.NewName("root"))
	wantParts(t, err, "the connection has no access key to replace")
	if !issuer.Definite(err) || !issuer.Definite(client.RetireRoot(t.Context(), issuer.Root{})) || !issuer.Definite(client.DiscardRoot(t.Context(), "regcred-x")) {
		t.Errorf("want definite errors, got %v", err)
	}

	useAmbientCredentials(t, ecrtest.Key{})
	client, target = own()
	calls := len(s.Calls())
	err = tryMint(t, client, target)
	wantParts(t, err, "no AWS credentials: write access_key_id and secret_access_key to the connection")
	if !issuer.Definite(err) || len(s.Calls()) != calls {
		t.Errorf("want a definite error without a call, got %v and %d calls", err, len(s.Calls())-calls)
	}
}

// The token file of a pod is read, and sent to the STS of AWS with the client of the
// connection. The environment, and the connection's url, lead it nowhere else.
func TestWebIdentityOfVaultsPod(t *testing.T) {
	s := ecrtest.New(t)
	useAmbientCredentials(t, ecrtest.Key{})
	inner := issuer.NewHTTP(nil)
	proof, transport := s.TrustPod(ecrtest.RoleName, inner.Transport)
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(proof), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", path)
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::"+ecrtest.Account+":role/"+ecrtest.RoleName)
	own := func(transport http.RoundTripper) (*issuer.Client, issuer.Target) {
		c := s.Connection()
		c.Settings, c.Secrets = issuer.Settings{"region": ecrtest.Region}, nil
		c.HTTP = &http.Client{Transport: transport, CheckRedirect: inner.CheckRedirect}
		return subject(s, c, nil).Open(t)
	}
	client, target := own(transport)
	status, err := client.Check(t.Context())
	if err != nil || !strings.Contains(status.Identity, ":assumed-role/"+ecrtest.RoleName+"/") {
		t.Errorf("Check: want the role of the pod, got %+v, %v", status, err)
	}
	if minted := mint(t, client, target, issuer.NewName("x")); !s.Pulls(minted, "team/app") {
		t.Error("want a credential that pulls")
	}
	// The token is not sent to the url of the connection, but to AWS.
	var hosts []string
	client, target = own(roundTrip(func(r *http.Request) (*http.Response, error) {
		hosts = append(hosts, r.URL.Host)
		return nil, errors.New("no network in tests")
	}))
	if err := tryMint(t, client, target); err == nil || !slices.Equal(slices.Compact(hosts), []string{"sts." + ecrtest.Region + ".amazonaws.com"}) {
		t.Errorf("want the token sent to AWS alone, got %q, %v", hosts, err)
	}
	// That AWS does not answer says nothing of the credentials.
	client, target = own(roundTrip(func(*http.Request) (*http.Response, error) { return nil, context.DeadlineExceeded }))
	if err := tryMint(t, client, target); !issuer.IsUnanswered(err) || strings.Contains(err.Error(), "no AWS credentials") {
		t.Errorf("want an error that says that there was no answer, got %v", err)
	}
	if err := os.WriteFile(path, []byte("token-of-another-cluster"), 0o600); err != nil {
		t.Fatal(err)
	}
	client, target = own(transport)
	err = tryMint(t, client, target)
	wantParts(t, err, "answered 400 Bad Request: AssumeRoleWithWebIdentity: InvalidIdentityToken")
	if strings.Contains(err.Error(), "token-of-another-cluster") {
		t.Errorf("the error repeats the token: %v", err)
	}
}

// An identity token of Vault assumes role_arn for each credential, limited by the role.
func TestIdentityTokensAssumeTheRole(t *testing.T) {
	s, vault := ecrtest.New(t), &issuertest.Vault{}
	s.AddRole(ecrtest.RoleName, nil, "", ecrtest.Everything())
	client, target := subject(s, s.Trusting(vault), s.Role()).Open(t)
	status, err := client.Check(t.Context())
	if want := "arn:aws:sts::" + ecrtest.Account + ":assumed-role/" + ecrtest.RoleName + "/regcred-check"; err != nil || status.Identity != want {
		t.Errorf("Check: want %s, got %+v, %v", want, status, err)
	}
	name := issuer.NewName("app")
	minted := mint(t, client, target, name)
	if !s.Pulls(minted, "team/app") || s.Pulls(minted, "team/other") || s.Allows(minted, "ecr:PutImage", ecrtest.Account, "team/app") {
		t.Error("want a credential that pulls what the role is for, and can do nothing else")
	}
	if living := s.Living(); !slices.Contains(living, name) {
		t.Errorf("want a session named %s, got %q", name, living)
	}
}

// AWS verifies an identity token, so whoever gets one can be this mount for as long as it
// lives: it goes to AWS alone, whatever the connection's url is.
func TestIdentityTokensAreSentToAWSAlone(t *testing.T) {
	s, vault := ecrtest.New(t), &issuertest.Vault{}
	c := s.Trusting(vault)
	inner := c.HTTP.Transport
	carried := map[string]int{}
	c.HTTP = &http.Client{CheckRedirect: c.HTTP.CheckRedirect, Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(text))
		for _, token := range vault.Tokens() {
			if strings.Contains(string(text)+fmt.Sprint(r.Header, r.URL), token) {
				carried[r.URL.Host]++
			}
		}
		return inner.RoundTrip(r)
	})}
	client, target := subject(s, c, s.Role()).Open(t)
	if _, err := client.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	mint(t, client, target, issuer.NewName("app"))
	if want := map[string]int{"sts." + ecrtest.Region + ".amazonaws.com": 2}; !maps.Equal(carried, want) {
		t.Errorf("want the tokens sent to %v, got %v", want, carried)
	}
}

func TestRefusedIdentityTokens(t *testing.T) {
	s, vault := ecrtest.New(t), &issuertest.Vault{}
	c := s.Trusting(vault)
	c.IdentityToken = vault.Source("of-another-provider")
	client, target := subject(s, c, s.Role()).Open(t)
	err := tryMint(t, client, target)
	wantParts(t, err, "answered 400 Bad Request: AssumeRoleWithWebIdentity: InvalidIdentityToken: Incorrect token audience")
	if !issuer.Definite(err) {
		t.Errorf("want a definite error, got %v", err)
	}
	c = s.Trusting(vault)
	c.Settings["role_arn"] += "-of-others"
	client, target = subject(s, c, s.Role()).Open(t)
	err = tryMint(t, client, target)
	wantParts(t, err, "answered 403 Forbidden: AssumeRoleWithWebIdentity: AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity")

	s.InjectFault(1, ecrtest.CallMatch("AssumeRoleWithWebIdentity"), func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		tokens := vault.Tokens()
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code><Message>Bad token %s</Message></Error></ErrorResponse>", strings.Join(tokens, " "))
	})
	err = tryMint(t, client, target)
	wantParts(t, err, "InvalidIdentityToken")
	for _, token := range vault.Tokens() {
		if strings.Contains(err.Error(), token) {
			t.Errorf("the error repeats an identity token: %v", err)
		}
	}
	s.InjectFault(1, ecrtest.CallMatch("AssumeRoleWithWebIdentity"), issuertest.Status(http.StatusOK, "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"))
	wantParts(t, tryMint(t, client, target), "the answer to AssumeRoleWithWebIdentity has no credentials")
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestTypeHasNothingToFindOrRevoke(t *testing.T) {
	s := ecrtest.New(t)
	client, target := subject(s, s.Connection(), s.Role()).Open(t)
	mint(t, client, target, "regcred-x")
	calls := len(s.Calls())
	if err := client.RevokeNamed(t.Context(), target.Settings, "regcred-x"); err != nil || ecr.Type().AbilitiesOf(s.Connection()).Revoke {
		t.Errorf("RevokeNamed: %v", err)
	}
	if err := client.Revoke(t.Context(), target.Settings, "regcred-x", ""); err != nil || len(s.Calls()) != calls {
		t.Errorf("Revoke: want no error and no call, got %v", err)
	}
}
