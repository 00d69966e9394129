// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// Flags for scripts/roll-back.sh, which builds the earlier version.
var (
	earlierPlugin  = flag.String("earlier-plugin", "", "the binary of an earlier version that TestRollBackToAnEarlierBuild rolls back to")
	earlierVersion = flag.String("earlier-version", "", "the version that the binary reports")
)

// refusesNewer is what an earlier build answers from an entry that it cannot
// read.
var refusesNewer = regexp.MustCompile(`reading (connections|shared)/\S+: the stored entry has schema version \d+ and this plugin knows up to \d+; run the newer plugin that wrote it`)

// TestRollBackToAnEarlierBuild rolls back from today's build to one that stored
// in an earlier form, and forward again. Meanwhile the earlier build serves what
// it understands, and refuses the rest with a clear message. It touches nothing
// at the registry. Afterwards everything works, and nothing was lost.
func TestRollBackToAnEarlierBuild(t *testing.T) {
	if *earlierPlugin == "" {
		t.Skip("needs the binary of an earlier build: run scripts/roll-back.sh")
	}
	r := startRolledBack(t)
	r.fill(t)
	before := r.answers(t)
	leases := r.storedLeases(t)
	r.ageWriteAheadEntries(t)

	r.runs(t, *earlierVersion)
	r.servesOrRefuses(t, before)
	r.refusesToWork(t, leases)
	r.periodicCall(t)
	if diff := cmp.Diff(r.living, r.lab.Living()); diff != "" {
		t.Errorf("the earlier build changed what lives at the registry (-before +after):\n%s", diff)
	}

	r.runs(t, rollTo)
	r.lab.ClearFaults()
	r.servesAsBefore(t, before)
	r.endsEverything(t, leases)
}

// rolledBack is a Vault that has both builds registered.
type rolledBack struct {
	*servers.Vault
	lab    *gitlabtest.Server
	mount  string // in Vault's storage
	living []string
}

func startRolledBack(t *testing.T) *rolledBack {
	t.Helper()
	v := servers.StartRaftVaultWith(t, servers.RaftOptions{Settings: []string{servers.RawStorage}})
	if err := v.Client.Sys().Unmount(servers.Mount); err != nil {
		t.Fatal(err)
	}
	name := servers.PluginName + "-" + *earlierVersion
	sum := v.CopyPlugin(t, *earlierPlugin, name)
	v.CLI(t, "", "plugin", "register", "-sha256="+sum, "-command="+name, "-version="+*earlierVersion, "secret", servers.PluginName)
	registerVersion(t, v, rollTo)
	v.CLI(t, "", "secrets", "enable", "-path="+servers.Mount, "-plugin-version="+rollTo, servers.PluginName)
	return &rolledBack{Vault: v, lab: gitlabtest.New(t), mount: v.RawMount(t, servers.Mount)}
}

// runs has the mount run a version.
func (r *rolledBack) runs(t *testing.T, version string) {
	t.Helper()
	tune(t, r.Vault, version)
	reload(t, r.Vault)
	if got := runningVersion(t, r.Vault); got != version {
		t.Fatalf("want the running version %s, got %s", version, got)
	}
}

// fill writes every kind of entry with today's build: also one that waits to be
// revoked, leases, and two credentials whose mint was not answered.
func (r *rolledBack) fill(t *testing.T) {
	t.Helper()
	c := r.Client
	write(t, c, "regcred/config", fields{"expiry_warning": "720h"})
	write(t, c, "regcred/roles/static", credential(fields{"allowed_bundles": "statics,mixed", "expires_at": "2099-01-31T00:00:00Z"}))
	write(t, c, "regcred/roles/other", credential(fields{"registry": "other.example.com", "allowed_bundles": "statics"}))
	write(t, c, "regcred/roles/statics", fields{"members": "static,other"})
	connect(t, c, "regcred/connections/gitlab", "gitlab", r.lab.Connection(), fields{"allowed_roles": "*"})
	write(t, c, "regcred/connections/gitlab/rotate-root", nil)
	shared := fields{"allowed_bundles": "mixed", "rotation_period": "6h", "grace_period": "3h"}
	write(t, c, "regcred/roles/shared", dynamic("gitlab", r.lab.Role(), shared))
	write(t, c, "regcred/roles/mixed", fields{"members": "static,shared"})
	read(t, c, "regcred/creds/shared")
	write(t, c, "regcred/rotate/shared", nil) // the former one waits to be revoked
	write(t, c, "regcred/roles/unread", dynamic("gitlab", r.lab.Role(), nil))
	write(t, c, "regcred/roles/leased", dynamic("gitlab", r.lab.Role(), fields{"mode": "leased", "ttl": "1h", "max_ttl": "20h"}))
	for range 3 {
		read(t, c, "regcred/creds/leased")
	}
	write(t, c, "regcred/roles/unanswered", dynamic("gitlab", r.lab.Role(), nil))
	for _, name := range []string{"unanswered", "leased"} {
		r.lab.InjectFault(1, r.lab.MintMatch, issuertest.CutAfterActing)
		if _, err := c.Logical().Read("regcred/creds/" + name); !isStatus(err, http.StatusBadGateway) {
			t.Fatalf("want status 502, got %v", err)
		}
	}
	r.lab.InjectFault(-1, issuertest.Method(http.MethodDelete), issuertest.Status(http.StatusServiceUnavailable, ""))
	r.living = r.lab.Living()
	if len(r.living) != 2+3+2 {
		t.Fatalf("want a credential in use, one that waits, three leased ones, and two that nobody was given; got %q", r.living)
	}
}

var rolledBackRoles = []string{"static", "other", "statics", "shared", "mixed", "unread", "leased", "unanswered"}

// answers reads every path that mints nothing.
func (r *rolledBack) answers(t *testing.T) map[string]fields {
	t.Helper()
	answers := map[string]fields{}
	for _, path := range []string{"config", "expiring", "connections/gitlab", "creds/static", "creds/statics", "creds/shared", "creds/mixed"} {
		answers[path] = read(t, r.Client, "regcred/"+path)
	}
	for _, name := range rolledBackRoles {
		answers["roles/"+name] = read(t, r.Client, "regcred/roles/"+name)
	}
	for _, answer := range answers {
		delete(answer, "ttl")
	}
	return answers
}

func (r *rolledBack) storedLeases(t *testing.T) []string {
	t.Helper()
	secret, err := r.Client.Logical().List("sys/leases/lookup/regcred/creds/leased")
	if err != nil || secret == nil {
		t.Fatalf("listing leases: %v, %v", secret, err)
	}
	var ids []string
	for _, id := range secret.Data["keys"].([]any) {
		ids = append(ids, "regcred/creds/leased/"+id.(string))
	}
	return ids
}

var createdAt = regexp.MustCompile(`"created_at":\d+`)

// ageWriteAheadEntries makes Vault have the write-ahead entries rolled back at its
// next call of the engine, and not minutes later.
func (r *rolledBack) ageWriteAheadEntries(t *testing.T) {
	t.Helper()
	ids := r.RawKeys(t, r.mount+"wal/")
	if len(ids) != 2 {
		t.Fatalf("want 2 write-ahead entries, got %q", ids)
	}
	for _, id := range ids {
		key := r.mount + "wal/" + id
		aged := createdAt.ReplaceAllString(r.RawRead(t, key), fmt.Sprintf(`"created_at":%d`, time.Now().Add(-time.Hour).Unix()))
		r.RawWrite(t, key, aged)
	}
}

// isRefused checks that an error is the clear refusal of an entry.
func isRefused(t *testing.T, what string, err error) {
	t.Helper()
	var refused *api.ResponseError
	if !errors.As(err, &refused) || !refusesNewer.MatchString(strings.Join(refused.Errors, "\n")) {
		t.Errorf("%s: want a refusal like %s, got %v", what, refusesNewer, err)
	}
}

// servesOrRefuses reads with the earlier build. It answers what needs no
// connection as today's build did, and refuses the rest.
func (r *rolledBack) servesOrRefuses(t *testing.T, before map[string]fields) {
	t.Helper()
	served := []string{"config", "expiring", "creds/static", "creds/statics", "roles/static", "roles/other", "roles/statics"}
	for path, want := range before {
		secret, err := r.Client.Logical().Read("regcred/" + path)
		if !slices.Contains(served, path) {
			isRefused(t, "reading "+path, err)
			continue
		}
		if err != nil || secret == nil {
			t.Errorf("reading %s: want an answer, got %v, %v", path, secret, err)
			continue
		}
		if diff := cmp.Diff(want, secret.Data); diff != "" {
			t.Errorf("%s (-today +earlier):\n%s", path, diff)
		}
	}
	write(t, r.Client, "regcred/roles/static", fields{"email": "ops@example.com"})
	write(t, r.Client, "regcred/roles/static", fields{"email": ""})
}

// refusesToWork asks for what would mint or revoke.
func (r *rolledBack) refusesToWork(t *testing.T, leases []string) {
	t.Helper()
	for _, path := range []string{"creds/leased", "creds/unread", "creds/unanswered"} {
		_, err := r.Client.Logical().Read("regcred/" + path)
		isRefused(t, "reading "+path, err)
	}
	for path, data := range map[string]fields{
		"rotate/shared":                  nil,
		"connections/gitlab":             {"allowed_roles": "*"},
		"connections/gitlab/rotate-root": nil,
		"roles/new":                      dynamic("gitlab", r.lab.Role(), nil),
	} {
		_, err := r.Client.Logical().Write("regcred/"+path, data)
		isRefused(t, "writing "+path, err)
	}
	isRefused(t, "revoking a lease", r.Client.Sys().RevokeWithOptions(revokeNow(leases[0])))
	if _, err := r.Client.Sys().Renew(leases[1], 3600); err != nil {
		t.Errorf("renewing a lease: %v", err)
	}
}

// periodicCall waits until Vault has called the engine, which it does once a
// minute.
func (r *rolledBack) periodicCall(t *testing.T) {
	t.Helper()
	const refused = "what may be left at a registry could not be ended yet"
	before := strings.Count(r.Log(), refused)
	servers.Eventually(t, func() error {
		if strings.Count(r.Log(), refused) < before+2 {
			return errors.New("the engine was not called for both write-ahead entries yet")
		}
		return nil
	})
}

// servesAsBefore compares the answers after going forward again.
func (r *rolledBack) servesAsBefore(t *testing.T, before map[string]fields) {
	t.Helper()
	after := r.answers(t)
	for _, name := range []string{"roles/static", "roles/unanswered"} { // written, or tried, meanwhile
		for _, answers := range []map[string]fields{before, after} {
			maps.DeleteFunc(answers[name], func(field string, _ any) bool {
				return field == "updated_at" || strings.HasPrefix(field, "last_error")
			})
		}
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("answers (-before +after):\n%s", diff)
	}
	if got := credentialOf(read(t, r.Client, "regcred/creds/shared")); !r.lab.Pulls(got, gitlabtest.Project) {
		t.Error("the shared credential does not pull")
	}
	if got := credentialOf(read(t, r.Client, "regcred/creds/unread")); !r.lab.Pulls(got, gitlabtest.Project) {
		t.Error("a new shared credential does not pull")
	}
}

// endsEverything deletes all that was written. Nothing is left in the storage
// and at the registry.
func (r *rolledBack) endsEverything(t *testing.T, leases []string) {
	t.Helper()
	write(t, r.Client, "regcred/rotate/shared", nil)
	for _, id := range leases {
		if _, err := r.Client.Sys().Renew(id, 3600); err != nil && id != leases[0] {
			t.Errorf("renewing %s: %v", id, err)
		}
		if err := r.Client.Sys().RevokeWithOptions(revokeNow(id)); err != nil {
			t.Errorf("revoking %s: %v", id, err)
		}
	}
	for _, name := range rolledBackRoles {
		if _, err := r.Client.Logical().Delete("regcred/roles/" + name); err != nil {
			t.Errorf("deleting %s: %v", name, err)
		}
	}
	servers.Eventually(t, func() error {
		if living := r.lab.Living(); living != nil {
			return fmt.Errorf("want nothing alive at the registry, got %q", living)
		}
		_, err := r.Client.Logical().Delete("regcred/connections/gitlab")
		return err
	})
	left := r.RawKeys(t, r.mount)
	if want := []string{"config", "fence"}; !slices.Equal(left, want) {
		t.Errorf("want %q left in the storage, got %q", want, left)
	}
	if admins := r.lab.Admins(); len(admins) != 1 {
		t.Errorf("want one root credential, got %q", admins)
	}
}
