// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// TestScripts runs each session in testdata/script against a dev server of its
// own. A session calls the real CLI as "vault …"; a command with "! vault …"
// must fail. After each command, stdout and stderr hold its output.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			v := servers.StartVault(env.T().(testing.TB))
			env.Values[vaultKey{}] = v
			env.Vars = append(env.Vars, v.Env()...)
			env.Setenv("PLUGIN_DIR", v.PluginDir)
			lab := gitlabtest.New(env.T().(testing.TB))
			env.Setenv("GITLAB_URL", lab.URL)
			env.Setenv("GITLAB_REGISTRY", lab.Host())
			env.Setenv("GITLAB_TOKEN", lab.Connection().Secrets["token"].Reveal())
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"vault": cmdVault,
			"login": cmdLogin,
			"sub":   cmdSub,
			"shows": cmdShows,
		},
	})
}

type vaultKey struct{}

func vaultOf(ts *testscript.TestScript) *servers.Vault { return ts.Value(vaultKey{}).(*servers.Vault) }

// cmdVault runs the CLI: "vault read regcred/creds/my_app".
func cmdVault(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("vault", args...)
	switch {
	case err != nil && !neg:
		ts.Fatalf("vault %s: %v", strings.Join(args, " "), err)
	case err == nil && neg:
		ts.Fatalf("vault %s: must fail, and did not", strings.Join(args, " "))
	}
}

// cmdLogin continues with a new token that has only the named policies, or with
// the root token: "login app", "login root".
func cmdLogin(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: login root | login POLICY...")
	}
	v := vaultOf(ts)
	token := v.Token
	if args[0] != "root" {
		var err error
		token, err = v.NewToken(args...)
		ts.Check(err)
	}
	ts.Setenv("VAULT_TOKEN", token)
}

// cmdSub puts the last command's standard output into a variable, as the
// shell's NAME=$(…) does: "sub NAME".
func cmdSub(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sub NAME")
	}
	ts.Setenv(args[0], strings.TrimRight(ts.ReadFile("stdout"), "\n"))
}

var rfc3339 = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)

// cmdShows compares the last command's standard output with a file: "shows
// role.txt". In the file, TIME stands for any time, and gitlab.example.com and
// registry.example.com stand for the GitLab of the session.
func cmdShows(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: shows FILE")
	}
	named := strings.NewReplacer(ts.Getenv("GITLAB_URL"), "https://gitlab.example.com", ts.Getenv("GITLAB_REGISTRY"), "registry.example.com")
	got := strings.TrimRight(named.Replace(rfc3339.ReplaceAllString(ts.ReadFile("stdout"), "TIME")), "\n")
	want := strings.TrimRight(ts.ReadFile(args[0]), "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		ts.Fatalf("standard output differs from %s (-want +got):\n%s", args[0], diff)
	}
}

func TestMain(m *testing.M) {
	servers.CleanEnv()
	os.Exit(m.Run())
}
