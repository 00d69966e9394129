// SPDX-License-Identifier: MPL-2.0

// Command standins runs the GitLab and the Harbor in memory that the tests use, for
// people to try connections and rotation by hand ("make dev-registries"):
//
//	standins FOLDER
//
// It listens on loopback, over plain http. FOLDER gets the files
//
//	gitlab-token      root credential: a service account's, Owner of the group "group"
//	harbor-password   of the user "vault", administrator of the project "apps"
//	registries.env    GITLAB and HARBOR: host and port of each, for a shell
//
// the last of which is written last. Each request is a line on standard output, without
// its query and body. The program ends with SIGTERM or SIGINT.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/harbor/harbortest"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: standins FOLDER")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "standins:", err)
		os.Exit(1)
	}
}

func run(folder string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	p := &program{}
	defer p.end()

	lab, harbor := gitlabtest.New(p), harbortest.New(p)
	lab.Watch(logged("gitlab"), nil)
	harbor.Watch(logged("harbor"), nil)
	for _, file := range []struct{ name, content string }{
		{"gitlab-token", lab.Connection().Secrets["token"].Reveal()},
		{"harbor-password", harbortest.Password},
		{"registries.env", fmt.Sprintf("GITLAB=%s HARBOR=%s\n", lab.Host(), harbor.Host())},
	} {
		path := filepath.Join(folder, file.name)
		if err := os.WriteFile(path+".new", []byte(file.content), 0o600); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

func logged(registry string) func(*http.Request) {
	return func(r *http.Request) { fmt.Printf("%s: %s %s\n", registry, r.Method, r.URL.Path) }
}

// program owns the servers and stops them in the end.
type program struct{ stops []func() }

func (*program) Helper()               {}
func (p *program) Cleanup(stop func()) { p.stops = append(p.stops, stop) }

func (p *program) end() {
	for _, stop := range slices.Backward(p.stops) {
		stop()
	}
}
