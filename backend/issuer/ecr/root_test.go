// SPDX-License-Identifier: MPL-2.0

package ecr_test

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/ecr/ecrtest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

const rotationTag = "regcred-rotate-root"

// keyOf returns the access key ID of a connection.
func keyOf(c issuer.Connection) string { return c.Settings["access_key_id"] }

// rootOf returns the root credential of a connection.
func rootOf(c issuer.Connection) issuer.Root {
	return issuer.Root{Settings: c.Settings, Secrets: c.Secrets}
}

func TestRotationMintsWithTheNewKeyAndLeavesNothingBehind(t *testing.T) {
	s := ecrtest.New(t)
	c := s.Connection()
	old, target := subject(s, c, s.Role()).Open(t)
	before := mint(t, old, target, issuer.NewName("x"))
	name := issuer.NewName("root")
	root, err := old.PrepareRoot(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Tags(ecrtest.User)[rotationTag]; !strings.HasPrefix(got, name+"/"+keyOf(c)+"/") {
		t.Errorf("want the name %q and the only key in the tag, got %q", name, got)
	}
	renewed := c.With(root)
	client, _ := subject(s, renewed, s.Role()).Open(t)
	if err := client.RetireRoot(t.Context(), rootOf(c)); err != nil {
		t.Fatal(err)
	}
	if got := s.Admins(); !slices.Equal(got, []string{keyOf(renewed)}) || keyOf(renewed) == keyOf(c) {
		t.Errorf("want only the new key, got %q", got)
	}
	if tags := s.Tags(ecrtest.User); len(tags) != 0 {
		t.Errorf("want no tag to stay, got %q", tags)
	}
	if !s.Pulls(before, "team/app") {
		t.Error("want what the old key has minted to go on pulling")
	}
	// A key that a person created later is not discarded, whatever is left of the
	// rotation.
	s.AddKey(ecrtest.User)
	if err := client.DiscardRoot(t.Context(), name); err != nil || len(s.Admins()) != 2 {
		t.Errorf("DiscardRoot: want nothing deleted, got %v and the keys %q", err, s.Admins())
	}
}

func TestRotationNeedsRoomForASecondKey(t *testing.T) {
	s := ecrtest.New(t)
	client, _ := subject(s, s.Connection(), s.Role()).Open(t)
	other := s.AddKey(ecrtest.User)
	name := issuer.NewName("root")
	_, err := client.PrepareRoot(t.Context(), name)
	wantParts(t, err, "the IAM user regcred has a second access key, "+other.ID+", and AWS allows only two: delete it if it is not used")
	if !issuer.Definite(err) {
		t.Errorf("want a definite error, got %v", err)
	}
	// This call follows if the plugin crashes before it records the refusal.
	if err := client.DiscardRoot(t.Context(), name); err != nil || len(s.Admins()) != 2 {
		t.Errorf("DiscardRoot: want the key that others use to stay, got %v and %q", err, s.Admins())
	}
}

// A key that somebody adds while the rollback waits is not the one that was being
// created, whether or not that one came to be.
func TestDiscardLeavesAKeyThatSomebodyAddedLater(t *testing.T) {
	for name, tag := range map[string]func(*ecrtest.Server, *issuer.Client) string{
		"after a call that failed": func(s *ecrtest.Server, client *issuer.Client) string {
			s.InjectFault(-1, ecrtest.CallMatch("CreateAccessKey"), issuertest.Status(500, "boom"))
			name := issuer.NewName("root")
			if _, err := client.PrepareRoot(t.Context(), name); err == nil || issuer.Definite(err) {
				t.Fatalf("PrepareRoot: want an error that is not definite, got %v", err)
			}
			return name
		},
		"after a rotation of an earlier build": func(s *ecrtest.Server, _ *issuer.Client) string {
			name := issuer.NewName("root")
			s.SetTag(ecrtest.User, rotationTag, name)
			return name
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := ecrtest.New(t)
			client, _ := subject(s, s.Connection(), s.Role()).Open(t)
			rotation := tag(s, client)
			s.SetNow(func() time.Time { return time.Now().Add(time.Minute) })
			s.AddKey(ecrtest.User)
			before := s.Admins()
			if err := client.DiscardRoot(t.Context(), rotation); err != nil {
				t.Errorf("DiscardRoot: %v", err)
			}
			if got := s.Admins(); !slices.Equal(got, before) {
				t.Errorf("want the keys %q, got %q", before, got)
			}
			if tags := s.Tags(ecrtest.User); len(tags) != 0 {
				t.Errorf("want no tag to stay, got %q", tags)
			}
		})
	}
}

func TestDiscardFindsAKeyWhoseAnswerNeverCame(t *testing.T) {
	for _, fault := range []issuertest.Fault{issuertest.CutAfterActing, issuertest.StatusAfterActing(500, "boom"), issuertest.GarbageAfterActing} {
		s := ecrtest.New(t)
		c := s.Connection()
		client, _ := subject(s, c, s.Role()).Open(t)
		var created atomic.Int64
		s.Watch(func(r *http.Request) {
			if ecrtest.CallMatch("CreateAccessKey")(r) {
				created.Add(1)
			}
		}, nil)
		s.InjectFault(-1, ecrtest.CallMatch("CreateAccessKey"), fault)
		name := issuer.NewName("root")
		_, err := client.PrepareRoot(t.Context(), name)
		if err == nil || issuer.Definite(err) {
			t.Fatalf("PrepareRoot: want an error that is not definite, got %v", err)
		}
		if created.Load() != 1 || len(s.Admins()) != 2 {
			t.Errorf("want one key made by one call, got %d calls and %q", created.Load(), s.Admins())
		}
		if err := client.DiscardRoot(t.Context(), "regcred-another"); err != nil || len(s.Admins()) != 2 {
			t.Errorf("DiscardRoot of another name: want nothing deleted, got %v and %q", err, s.Admins())
		}
		for range 2 {
			if err := client.DiscardRoot(t.Context(), name); err != nil {
				t.Errorf("DiscardRoot: %v", err)
			}
		}
		if got := s.Admins(); !slices.Equal(got, []string{keyOf(c)}) || len(s.Tags(ecrtest.User)) != 0 {
			t.Errorf("want the key of the connection alone, got %q", got)
		}
	}
}

func TestRefusedRotationLeavesNoTag(t *testing.T) {
	s := ecrtest.New(t)
	client, _ := subject(s, s.Connection(), s.Role()).Open(t)
	forbidden := issuertest.Status(403, `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>User: x is not authorized to perform: iam:CreateAccessKey</Message></Error></ErrorResponse>`)
	s.InjectFault(-1, ecrtest.CallMatch("CreateAccessKey"), forbidden)
	_, err := client.PrepareRoot(t.Context(), issuer.NewName("root"))
	wantParts(t, err, "answered 403 Forbidden: CreateAccessKey: AccessDenied: User: x is not authorized to perform: iam:CreateAccessKey")
	if !issuer.Definite(err) || len(s.Tags(ecrtest.User)) != 0 {
		t.Errorf("want a definite error and no tag, got %v and %q", err, s.Tags(ecrtest.User))
	}
	// While the tag exists, a key that a person creates could be discarded. So the
	// error is not definite.
	s.InjectFault(-1, ecrtest.CallMatch("UntagUser"), forbidden)
	_, err = client.PrepareRoot(t.Context(), issuer.NewName("root"))
	wantParts(t, err, "CreateAccessKey: AccessDenied", "the tag regcred-rotate-root of the IAM user regcred could not be removed")
	if issuer.Definite(err) {
		t.Errorf("want an error that is not definite, got %v", err)
	}
}

func TestRotationPermissions(t *testing.T) {
	s := ecrtest.New(t)
	for action, call := range map[string]func(*issuer.Client, issuer.Connection) error{
		"TagUser": func(c *issuer.Client, _ issuer.Connection) error {
			_, err := c.PrepareRoot(t.Context(), "regcred-x")
			return err
		},
		"ListAccessKeys": func(c *issuer.Client, _ issuer.Connection) error {
			_, err := c.PrepareRoot(t.Context(), "regcred-x")
			return err
		},
		"CreateAccessKey": func(c *issuer.Client, _ issuer.Connection) error {
			_, err := c.PrepareRoot(t.Context(), "regcred-x")
			return err
		},
		"ListUserTags":    func(c *issuer.Client, _ issuer.Connection) error { return c.DiscardRoot(t.Context(), "regcred-x") },
		"UntagUser":       func(c *issuer.Client, of issuer.Connection) error { return c.RetireRoot(t.Context(), rootOf(of)) },
		"DeleteAccessKey": func(c *issuer.Client, of issuer.Connection) error { return c.RetireRoot(t.Context(), rootOf(of)) },
	} {
		t.Run(action, func(t *testing.T) {
			var all []string
			for _, other := range []string{"TagUser", "ListAccessKeys", "CreateAccessKey", "ListUserTags", "UntagUser", "DeleteAccessKey"} {
				if other != action {
					all = append(all, "iam:"+other)
				}
			}
			key := s.AddUser("half", ecrtest.Statement{Actions: all, Resources: []string{"*"}})
			client, _ := subject(s, s.WithKey(key), nil).Open(t)
			err := call(client, s.WithKey(key))
			wantParts(t, err, "answered 403 Forbidden: "+action+": AccessDenied", "is not authorized to perform: iam:"+action+" on resource: arn:aws:iam::111122223333:user/half")
			if !issuer.Definite(err) || !slices.Contains(s.Admins(), key.ID) || len(s.Tags("half")) != 0 {
				t.Errorf("want a definite error, and nothing changed, got %v", err)
			}
		})
	}
}

func TestKeyOfTheRootUserIsNotReplaced(t *testing.T) {
	s := ecrtest.New(t)
	client, _ := subject(s, s.WithKey(s.AddUser("root", ecrtest.Everything())), nil).Open(t)
	_, err := client.PrepareRoot(t.Context(), issuer.NewName("root"))
	wantParts(t, err, "access_key_id belongs to arn:aws:iam::111122223333:root; only the key of an IAM user can be replaced")
	if !issuer.Definite(err) {
		t.Errorf("want a definite error, got %v", err)
	}
}

func TestOddListsOfKeysAreNotActedUpon(t *testing.T) {
	s := ecrtest.New(t)
	client, _ := subject(s, s.Connection(), s.Role()).Open(t)
	name := issuer.NewName("root")
	if _, err := client.PrepareRoot(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	s.InjectFault(-1, ecrtest.CallMatch("ListAccessKeys"), issuertest.Status(200, `<ListAccessKeysResponse><ListAccessKeysResult><AccessKeyMetadata><member><AccessKeyId>AKIA0000000000000000</AccessKeyId></member></AccessKeyMetadata></ListAccessKeysResult></ListAccessKeysResponse>`))
	wantParts(t, client.DiscardRoot(t.Context(), name), "ListAccessKeys does not list the connection's own key")
	_, err := client.PrepareRoot(t.Context(), name)
	wantParts(t, err, "ListAccessKeys does not list the connection's own key")
	if len(s.Admins()) != 2 {
		t.Errorf("want nothing deleted, got %q", s.Admins())
	}
	s.ClearFaults()
	s.InjectFault(-1, ecrtest.CallMatch("DeleteAccessKey"), issuertest.Status(503, "boom"))
	wantParts(t, client.DiscardRoot(t.Context(), name), "answered 503")
	if !strings.HasPrefix(s.Tags(ecrtest.User)[rotationTag], name+"/") {
		t.Error("want the tag to stay while the key does")
	}
}

// retiring returns a client that is open with a second key, and the first one.
func retiring(t *testing.T, s *ecrtest.Server) (*issuer.Client, issuer.Connection) {
	t.Helper()
	c := s.Connection()
	client, _ := subject(s, c, s.Role()).Open(t)
	root, err := client.PrepareRoot(t.Context(), issuer.NewName("root"))
	if err != nil {
		t.Fatal(err)
	}
	renewed, _ := subject(s, c.With(root), s.Role()).Open(t)
	return renewed, c
}

func TestRetirementTakesAKeyThatIsGoneAsDone(t *testing.T) {
	s := ecrtest.New(t)
	client, old := retiring(t, s)
	s.InjectFault(1, ecrtest.CallMatch("DeleteAccessKey"), issuertest.CutAfterActing)
	if err := client.RetireRoot(t.Context(), rootOf(old)); err == nil || issuer.Definite(err) {
		t.Errorf("want an error that is not definite, got %v", err)
	}
	if err := client.RetireRoot(t.Context(), rootOf(old)); err != nil || len(s.Admins()) != 1 {
		t.Errorf("want success and only the new key, got %v and %q", err, s.Admins())
	}
	// IAM may list a deleted key for some seconds.
	s = ecrtest.New(t)
	client, old = retiring(t, s)
	s.InjectFault(1, ecrtest.CallMatch("DeleteAccessKey"), issuertest.Status(404, `<ErrorResponse><Error><Code>NoSuchEntity</Code><Message>The Access Key cannot be found.</Message></Error></ErrorResponse>`))
	if err := client.RetireRoot(t.Context(), rootOf(old)); err != nil {
		t.Errorf("want success, got %v", err)
	}
	// A refusal for another reason is an error.
	s = ecrtest.New(t)
	client, old = retiring(t, s)
	s.InjectFault(-1, func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/") }, issuertest.Status(403, `<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error></ErrorResponse>`))
	if err := client.RetireRoot(t.Context(), rootOf(old)); err == nil {
		t.Error("want an error")
	}
}

// AWS also refuses a key that is inactive, or everything for a moment. Such a key is
// still in the list.
func TestRetirementDoesNotTakeARefusalForAnEnd(t *testing.T) {
	refused := issuertest.Status(403, `<ErrorResponse><Error><Code>InvalidClientTokenId</Code><Message>The security token included in the request is invalid.</Message></Error></ErrorResponse>`)
	s := ecrtest.New(t)
	client, old := retiring(t, s)
	s.InjectFault(-1, nil, refused)
	if err := client.RetireRoot(t.Context(), rootOf(old)); err == nil || len(s.Admins()) != 2 {
		t.Errorf("while all is refused: want an error and both keys, got %v and %q", err, s.Admins())
	}
	s.ClearFaults()
	s.InjectFault(-1, func(r *http.Request) bool { return strings.Contains(r.Header.Get("Authorization"), keyOf(old)) }, refused)
	if err := client.RetireRoot(t.Context(), rootOf(old)); err != nil || slices.Contains(s.Admins(), keyOf(old)) {
		t.Errorf("want the old key deleted, got %v and %q", err, s.Admins())
	}
}
