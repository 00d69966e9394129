// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/gitea"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// TestGiteaIssuer tries what mints at Gitea on a real one.
func TestGiteaIssuer(t *testing.T) {
	t.Parallel()
	g := servers.StartGitea(t)
	t.Run("conforms with a password", func(t *testing.T) {
		issuertest.Conform(t, func(t *testing.T) issuertest.Subject { return giteaSubject(t, g, g.Proxy(t)) })
	})
	t.Run("conforms with an access token", func(t *testing.T) {
		issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
			proxy := g.Proxy(t)
			proxy.UseToken()
			return giteaSubject(t, g, proxy)
		})
	})
	for name, try := range map[string]func(*testing.T, *servers.Gitea){
		"who may mint for whom":                       giteaAuthority,
		"check":                                       giteaCheck,
		"real clients pull until it is revoked":       giteaPulls,
		"an image of another account is refused":      giteaOtherImages,
		"a list of several pages":                     giteaPages,
		"an account that was deleted":                 giteaDeletedAccount,
		"an account that was renamed":                 giteaRenamedAccount,
		"not found for one who may not see":           giteaHiddenAccount,
		"a password that looks like a token":          giteaPasswordLikeToken,
		"a password of no administrator":              giteaOrdinaryPassword,
		"a password whose activation went unanswered": giteaUnansweredActivation,
		"a token whose retirement went unanswered":    giteaUnansweredRetirement,
		"a token is replaced by one of its kind":      giteaTokenScopes,
	} {
		t.Run(name, func(t *testing.T) { try(t, g) })
	}
}

func giteaSubject(t *testing.T, g *servers.Gitea, proxy *servers.GiteaProxy) issuertest.Subject {
	t.Helper()
	image := pushedToGitea(t, g, proxy.Puller)
	return issuertest.Subject{
		Type:       gitea.Type(),
		Connection: proxy.Connection(),
		Role:       proxy.Role(),
		Server:     proxy.Server,
		Pulls:      func(c issuer.Credential) bool { return pulls(t, image, c) },
		Mints:      proxy.MintMatch,
		Living:     proxy.Living,
		BadSecrets: issuer.Secrets{"password": dockerconfig.NewSecret("wrong-" + rand.Text())},
	}
}

// pushedToGitea pushes an image that only its account and administrators may pull.
func pushedToGitea(t *testing.T, g *servers.Gitea, a servers.Account) (image string) {
	t.Helper()
	image = g.Host + "/" + strings.ToLower(a.Name) + "/app:1"
	clients.Push(t, image, a.Name, a.Password)
	return image
}

// pulls reports whether an image can be pulled, or is refused.
func pulls(t *testing.T, image string, c issuer.Credential) bool {
	t.Helper()
	err := pull(t, image, c)
	var refused *transport.Error
	if errors.As(err, &refused) && refused.StatusCode == http.StatusUnauthorized {
		return false
	}
	if err != nil {
		t.Errorf("pulling %s: want success or status 401, got %v", image, err)
	}
	return err == nil
}

func pull(t *testing.T, image string, c issuer.Credential) error {
	t.Helper()
	tag, err := name.NewTag(image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	auth := remote.WithAuth(&authn.Basic{Username: c.Username, Password: c.Password.Reveal()})
	pulled, err := remote.Image(tag, auth, remote.WithContext(t.Context()))
	if err != nil {
		return err
	}
	layers, err := pulled.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		content, err := layer.Compressed()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, content) // which is checked against its digest
		if err = errors.Join(err, content.Close()); err != nil {
			return err
		}
	}
	return nil
}

// openGitea opens a connection by an account's credential, for a role.
func openGitea(t *testing.T, url, username, secret, user string) (*issuer.Client, issuer.Target) {
	t.Helper()
	role := issuer.Settings{}
	if user != "" {
		role["user"] = user
	}
	return issuertest.Subject{
		Type: gitea.Type(),
		Connection: issuer.Connection{
			URL:        url,
			Registries: []dockerconfig.Key{"gitea.example.com"},
			Settings:   issuer.Settings{"username": username},
			Secrets:    issuer.Secrets{"password": dockerconfig.NewSecret(secret)},
		},
		Role: role,
	}.Open(t)
}

func giteaRoot(username, secret string) issuer.Root {
	return issuer.Root{Settings: issuer.Settings{"username": username}, Secrets: issuer.Secrets{"password": dockerconfig.NewSecret(secret)}}
}

func mintAtGitea(t *testing.T, client *issuer.Client, target issuer.Target) (name string, minted issuer.Credential) {
	t.Helper()
	name = issuer.NewName("app")
	minted, err := client.Mint(t.Context(), issuer.Request{Name: name, For: target.Settings, ExpiresAt: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatalf("Mint: %v", err)
	}
	return name, minted
}

// mintRefused mints and wants a definite error that holds a text.
func mintRefused(t *testing.T, client *issuer.Client, target issuer.Target, want string) {
	t.Helper()
	_, err := client.Mint(t.Context(), issuer.Request{Name: issuer.NewName("app"), For: target.Settings, ExpiresAt: time.Now().Add(time.Hour)})
	wantRefusal(t, err, want)
}

func wantRefusal(t *testing.T, err error, want string) {
	t.Helper()
	if !issuer.Definite(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("want a definite error that contains %q, got %v", want, err)
	}
}

func giteaAuthority(t *testing.T, g *servers.Gitea) {
	admin, ordinary, other := g.AddAdmin(t, "admin"), g.AddUser(t, "Ordinary"), g.AddUser(t, "other")
	image := pushedToGitea(t, g, ordinary)
	for name, secret := range map[string]string{
		"password": ordinary.Password,
		"token":    g.AddToken(t, ordinary, "vault", "write:user"),
	} {
		t.Run("itself, by "+name, func(t *testing.T) {
			client, target := openGitea(t, g.URL, ordinary.Name, secret, "")
			_, minted := mintAtGitea(t, client, target)
			if minted.Username != ordinary.Name || !minted.ExpiresAt.IsZero() {
				t.Errorf("want a credential of %s without an end, got one of %s until %s", ordinary.Name, minted.Username, minted.ExpiresAt)
			}
			if !pulls(t, image, minted) {
				t.Error("want a credential that pulls")
			}
		})
		t.Run("another, by "+name, func(t *testing.T) {
			client, target := openGitea(t, g.URL, ordinary.Name, secret, other.Name)
			// Gitea says of a private account that there is none.
			mintRefused(t, client, target, "404")
			client, target = openGitea(t, g.URL, ordinary.Name, secret, public(t, g, admin).Name)
			mintRefused(t, client, target, "doer should be the site admin")
		})
	}
	t.Run("another, by an administrator's token", func(t *testing.T) {
		client, target := openGitea(t, g.URL, admin.Name, g.AddToken(t, admin, "vault", "write:user"), ordinary.Name)
		if _, minted := mintAtGitea(t, client, target); minted.Username != ordinary.Name || !pulls(t, image, minted) {
			t.Errorf("want a credential of %s that pulls, got one of %s", ordinary.Name, minted.Username)
		}
	})
	t.Run("by a token without the scope", func(t *testing.T) {
		client, target := openGitea(t, g.URL, ordinary.Name, g.AddToken(t, ordinary, "weak", "read:user"), "")
		mintRefused(t, client, target, "required=[write:user]")
	})
	t.Run("no such account", func(t *testing.T) {
		client, target := openGitea(t, g.URL, admin.Name, admin.Password, "nobody-here")
		mintRefused(t, client, target, "nobody-here")
	})
}

// public makes an account visible to all others.
func public(t *testing.T, g *servers.Gitea, a servers.Account) servers.Account {
	t.Helper()
	g.Operate(t, http.MethodPatch, "/admin/users/"+a.Name, http.StatusOK,
		map[string]any{"login_name": a.Name, "source_id": 0, "visibility": "public"}, nil)
	return a
}

func giteaCheck(t *testing.T, g *servers.Gitea) {
	admin, ordinary := g.AddAdmin(t, "admin"), g.AddUser(t, "ordinary")
	const excess, site = "is all that is needed", "is a site administrator"
	for name, test := range map[string]struct {
		account  servers.Account
		username string
		secret   string
		warnings []string // parts of them, one of each
		refusal  string
	}{
		"a password":                    {ordinary, ordinary.Name, ordinary.Password, nil, ""},
		"a password, another case":      {ordinary, strings.ToUpper(ordinary.Name), ordinary.Password, nil, ""},
		"an administrator's password":   {admin, admin.Name, admin.Password, []string{site}, ""},
		"a token":                       {ordinary, ordinary.Name, g.AddToken(t, ordinary, "least", "write:user"), nil, ""},
		"an administrator's token":      {admin, admin.Name, g.AddToken(t, admin, "least", "write:user"), []string{site}, ""},
		"a token that may do all":       {ordinary, ordinary.Name, g.AddToken(t, ordinary, "all", "all"), []string{excess}, ""},
		"a token that may do more":      {ordinary, ordinary.Name, g.AddToken(t, ordinary, "more", "write:user", "write:package"), []string{excess}, ""},
		"a token that may only read":    {ordinary, ordinary.Name, g.AddToken(t, ordinary, "less", "read:user"), nil, "lacks the scope write:user"},
		"a token that cannot even that": {ordinary, ordinary.Name, g.AddToken(t, ordinary, "none", "read:package"), nil, "403"},
		"a token of another account":    {ordinary, ordinary.Name, g.AddToken(t, admin, "other", "write:user"), nil, "write username=" + admin.Name},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := openGitea(t, g.URL, test.username, test.secret, "")
			status, err := client.Check(t.Context())
			if test.refusal != "" {
				wantRefusal(t, err, test.refusal)
				return
			}
			if err != nil || !strings.HasPrefix(status.Identity, test.account.Name) {
				t.Fatalf("want the identity %s, got %q, %v", test.account.Name, status.Identity, err)
			}
			if len(status.Warnings) != len(test.warnings) {
				t.Fatalf("want %d warnings, got %q", len(test.warnings), status.Warnings)
			}
			for i, want := range test.warnings {
				if !strings.Contains(status.Warnings[i], want) {
					t.Errorf("want a warning that contains %q, got %q", want, status.Warnings[i])
				}
			}
		})
	}
}

func giteaPulls(t *testing.T, g *servers.Gitea) {
	proxy := g.Proxy(t)
	image := pushedToGitea(t, g, proxy.Puller)
	client, target := issuertest.Subject{Type: gitea.Type(), Connection: proxy.Connection(), Role: proxy.Role()}.Open(t)
	name, minted := mintAtGitea(t, client, target)
	secret, err := dockerconfig.New(dockerconfig.Credential{Registry: dockerconfig.Key(g.Host), Username: minted.Username, Password: minted.Password})
	if err != nil {
		t.Fatal(err)
	}
	config := string(secret.JSON())
	for puller, pull := range clients.Pullers {
		if out, err := pull(t, image, config); err != nil {
			t.Errorf("%s: %v\n%s", puller, err, out)
		}
	}
	if err := client.Revoke(t.Context(), target.Settings, name, minted.ID); err != nil {
		t.Fatal(err)
	}
	for puller, pull := range clients.Pullers {
		if out, err := pull(t, image, config); err == nil || !strings.Contains(strings.ToLower(out), "unauthorized") {
			t.Errorf("%s: want a refusal after the token was revoked, got %v\n%s", puller, err, out)
		}
	}
}

func giteaOtherImages(t *testing.T, g *servers.Gitea) {
	proxy := g.Proxy(t)
	other := pushedToGitea(t, g, g.AddUser(t, "other"))
	client, target := issuertest.Subject{Type: gitea.Type(), Connection: proxy.Connection(), Role: proxy.Role()}.Open(t)
	_, minted := mintAtGitea(t, client, target)
	if pulls(t, other, minted) {
		t.Error("want an image that the account may not read to be refused")
	}
	tag, err := name.NewTag(pushedToGitea(t, g, proxy.Puller), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	auth := remote.WithAuth(&authn.Basic{Username: minted.Username, Password: minted.Password.Reveal()})
	if err := remote.Delete(tag, auth, remote.WithContext(t.Context())); err == nil {
		t.Error("want a deletion by a credential that may only pull to be refused")
	}
}

func giteaPages(t *testing.T, g *servers.Gitea) {
	proxy := g.Proxy(t)
	client, target := issuertest.Subject{Type: gitea.Type(), Connection: proxy.Connection(), Role: proxy.Role()}.Open(t)
	first, _ := mintAtGitea(t, client, target)
	for i := range 101 { // two whole pages and one on the third
		g.AddToken(t, proxy.Puller, fmt.Sprintf("other-%d", i), "read:package")
	}
	if err := client.RevokeNamed(t.Context(), target.Settings, first); err != nil {
		t.Fatal(err)
	}
	if living := proxy.Living(); len(living) != 101 || slices.Contains(living, first) {
		t.Errorf("want the oldest of 102 tokens revoked and no other, got %d alive: %q", len(living), living)
	}
}

func giteaDeletedAccount(t *testing.T, g *servers.Gitea) {
	proxy := g.Proxy(t)
	client, target := issuertest.Subject{Type: gitea.Type(), Connection: proxy.Connection(), Role: proxy.Role()}.Open(t)
	name, minted := mintAtGitea(t, client, target)
	g.Operate(t, http.MethodDelete, "/admin/users/"+proxy.Puller.Name, http.StatusNoContent, nil, nil)
	g.Call(t, servers.Account{Name: minted.Username, Password: minted.Password.Reveal()}, http.MethodGet, "/user", http.StatusUnauthorized, nil, nil)
	if err := client.Revoke(t.Context(), target.Settings, name, minted.ID); err != nil {
		t.Errorf("Revoke: want success, because the account took its tokens along, got %v", err)
	}
	if err := client.RevokeNamed(t.Context(), target.Settings, name); err != nil {
		t.Errorf("RevokeNamed: want success, because the account took its tokens along, got %v", err)
	}
	mintRefused(t, client, target, proxy.Puller.Name)
}

func giteaRenamedAccount(t *testing.T, g *servers.Gitea) {
	proxy := g.Proxy(t)
	client, target := issuertest.Subject{Type: gitea.Type(), Connection: proxy.Connection(), Role: proxy.Role()}.Open(t)
	firstName, first := mintAtGitea(t, client, target)
	second, _ := mintAtGitea(t, client, target)
	renamed := proxy.Puller.Name + "-renamed"
	g.Operate(t, http.MethodPost, "/admin/users/"+proxy.Puller.Name+"/rename", http.StatusNoContent, map[string]any{"new_username": renamed}, nil)
	if err := client.Revoke(t.Context(), target.Settings, firstName, first.ID); err != nil {
		t.Errorf("Revoke: %v", err)
	}
	if got := g.Tokens(t, renamed); !cmp.Equal(got, []string{second}) {
		t.Errorf("want only %q alive, got %q", second, got)
	}
	if err := client.RevokeNamed(t.Context(), target.Settings, second); err != nil {
		t.Errorf("RevokeNamed: %v", err)
	}
	if got := g.Tokens(t, renamed); len(got) != 0 {
		t.Errorf("want no token alive, got %q", got)
	}
	mintRefused(t, client, target, "write user="+renamed)
}

// An administrator who is one no longer is told of a private account that there
// is none. That must not count as revoked.
func giteaHiddenAccount(t *testing.T, g *servers.Gitea) {
	proxy := g.Proxy(t)
	client, target := issuertest.Subject{Type: gitea.Type(), Connection: proxy.Connection(), Role: proxy.Role()}.Open(t)
	name, minted := mintAtGitea(t, client, target)
	setAdmin := func(admin bool) {
		g.Operate(t, http.MethodPatch, "/admin/users/"+proxy.Admin.Name, http.StatusOK,
			map[string]any{"login_name": proxy.Admin.Name, "source_id": 0, "admin": admin}, nil)
	}
	setAdmin(false)
	if err := client.Revoke(t.Context(), target.Settings, name, minted.ID); issuer.StatusOf(err) != http.StatusNotFound {
		t.Errorf("Revoke: want the refusal, got %v", err)
	}
	if err := client.RevokeNamed(t.Context(), target.Settings, name); issuer.StatusOf(err) != http.StatusNotFound {
		t.Errorf("RevokeNamed: want the refusal, got %v", err)
	}
	setAdmin(true)
	if err := client.Revoke(t.Context(), target.Settings, name, minted.ID); err != nil {
		t.Errorf("Revoke: %v", err)
	}
	if living := proxy.Living(); len(living) != 0 {
		t.Errorf("want no token alive, got %q", living)
	}
}

func giteaPasswordLikeToken(t *testing.T, g *servers.Gitea) {
	admin := g.AddAdmin(t, "admin")
	random := make([]byte, 20)
	_, _ = rand.Read(random)
	password := hex.EncodeToString(random)
	g.Operate(t, http.MethodPatch, "/admin/users/"+admin.Name, http.StatusOK,
		map[string]any{"login_name": admin.Name, "source_id": 0, "password": password}, nil)
	client, _ := openGitea(t, g.URL, admin.Name, password, "")
	if _, err := client.Check(t.Context()); err != nil {
		t.Fatalf("Check: %v", err)
	}
	root, err := client.PrepareRoot(t.Context(), issuer.NewName("root"))
	if err != nil {
		t.Fatalf("PrepareRoot: %v", err)
	}
	if tokens := g.Tokens(t, admin.Name); len(tokens) != 0 {
		t.Errorf("want no token for what is a password, got %q", tokens)
	}
	if err := client.ActivateRoot(t.Context(), root); err != nil {
		t.Fatalf("ActivateRoot: %v", err)
	}
	renewed, _ := openGitea(t, g.URL, admin.Name, root.Secrets["password"].Reveal(), "")
	if err := renewed.RetireRoot(t.Context(), giteaRoot(admin.Name, password)); err != nil {
		t.Errorf("RetireRoot: %v", err)
	}
	if _, err := renewed.Check(t.Context()); err != nil {
		t.Errorf("Check of the new one: %v", err)
	}
}

func giteaOrdinaryPassword(t *testing.T, g *servers.Gitea) {
	ordinary := g.AddUser(t, "ordinary")
	client, _ := openGitea(t, g.URL, ordinary.Name, ordinary.Password, "")
	_, err := client.PrepareRoot(t.Context(), issuer.NewName("root"))
	wantRefusal(t, err, "is not a site administrator")
	// By token it can be done.
	token := g.AddToken(t, ordinary, "vault", "write:user")
	client, _ = openGitea(t, g.URL, ordinary.Name, token, "")
	name := issuer.NewName("root")
	root, err := client.PrepareRoot(t.Context(), name)
	if err != nil {
		t.Fatalf("PrepareRoot: %v", err)
	}
	renewed, _ := openGitea(t, g.URL, ordinary.Name, root.Secrets["password"].Reveal(), "")
	if err := renewed.RetireRoot(t.Context(), giteaRoot(ordinary.Name, token)); err != nil {
		t.Fatalf("RetireRoot: %v", err)
	}
	if got := g.Tokens(t, ordinary.Name); !cmp.Equal(got, []string{name}) {
		t.Errorf("want the new token only, got %q", got)
	}
}

func giteaUnansweredActivation(t *testing.T, g *servers.Gitea) {
	proxy := g.Proxy(t)
	client, _ := issuertest.Subject{Type: gitea.Type(), Connection: proxy.Connection(), Role: proxy.Role()}.Open(t)
	root, err := client.PrepareRoot(t.Context(), issuer.NewName("root"))
	if err != nil {
		t.Fatal(err)
	}
	proxy.InjectFault(1, issuertest.Method(http.MethodPatch), issuertest.CutAfterActing)
	if err := client.ActivateRoot(t.Context(), root); err == nil || issuer.Definite(err) {
		t.Fatalf("want an error that is not definite, got %v", err)
	}
	if err := client.ActivateRoot(t.Context(), root); err != nil {
		t.Errorf("want success, because it is in force already, got %v", err)
	}
	// One that is neither in force nor can be put in force is an error.
	unknown := issuer.Root{Secrets: issuer.Secrets{"password": dockerconfig.NewSecret("never-" + rand.Text())}}
	if err := client.ActivateRoot(t.Context(), unknown); issuer.StatusOf(err) != http.StatusUnauthorized {
		t.Errorf("want the refusal of the old one, got %v", err)
	}
}

func giteaUnansweredRetirement(t *testing.T, g *servers.Gitea) {
	proxy := g.Proxy(t)
	proxy.UseToken()
	client, _ := issuertest.Subject{Type: gitea.Type(), Connection: proxy.Connection(), Role: proxy.Role()}.Open(t)
	name := issuer.NewName("root")
	root, err := client.PrepareRoot(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	old := proxy.Connection()
	renewed, _ := issuertest.Subject{Type: gitea.Type(), Connection: old.With(root), Role: proxy.Role()}.Open(t)
	// What cuts the connection is met by each retry, all but the first of which
	// find nothing.
	proxy.InjectFault(1, issuertest.Method(http.MethodDelete), issuertest.CutAfterActing)
	for range 2 {
		if err := renewed.RetireRoot(t.Context(), issuer.Root{Settings: old.Settings, Secrets: old.Secrets}); err != nil {
			t.Errorf("RetireRoot: %v", err)
		}
	}
	if got := proxy.Admins(); !cmp.Equal(got, []string{name}) {
		t.Errorf("want the new token only, got %q", got)
	}
}

func giteaTokenScopes(t *testing.T, g *servers.Gitea) {
	ordinary := g.AddUser(t, "ordinary")
	client, _ := openGitea(t, g.URL, ordinary.Name, g.AddToken(t, ordinary, "vault", "write:user", "read:package"), "")
	name := issuer.NewName("root")
	if _, err := client.PrepareRoot(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	var tokens []struct {
		Name   string   `json:"name"`
		Scopes []string `json:"scopes"`
	}
	g.Operate(t, http.MethodGet, "/users/"+ordinary.Name+"/tokens", http.StatusOK, nil, &tokens)
	scopes := map[string][]string{}
	for _, token := range tokens {
		slices.Sort(token.Scopes)
		scopes[token.Name] = token.Scopes
	}
	if want := []string{"read:package", "write:user"}; !cmp.Equal(scopes[name], want) || !cmp.Equal(scopes["vault"], want) {
		t.Errorf("want both tokens to have the scopes %q, got %q", want, scopes)
	}
	if err := client.DiscardRoot(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if got := g.Tokens(t, ordinary.Name); !cmp.Equal(got, []string{"vault"}) {
		t.Errorf("want the old token only, got %q", got)
	}
}
