// SPDX-License-Identifier: MPL-2.0

// Command live tries a type of connection at a registry that its user has an account at
// ("make live"): it mints two credentials, uses, replaces and ends them, and prints a
// report without secrets and names, which can be published.
//
//	live -type=TYPE -settings=FILE [-rotate-root=yes -new-root=FILE] [-confirm=yes]
//
// The file of settings has lines of the form FIELD=value ([parseSettings]). The program
// ends what it has made, also after a failure, SIGINT, SIGTERM and SIGHUP, and names what
// it could not end. It exits with 0 if the registry does all that the engine needs and
// nothing is left, with 1 if not, and with 2 if nothing was tried.
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/registry"
)

// version is the version of the tree that is tried, set by the linker.
var version = "unknown"

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout)) }

// run is the whole program. It returns the exit code.
func run(args []string, in io.Reader, out io.Writer) int {
	flags := flag.NewFlagSet("live", flag.ContinueOnError)
	flags.SetOutput(out)
	kind := flags.String("type", "", "type of the connection, such as quay")
	file := flags.String("settings", "live.env", "file with a line FIELD=value for each field")
	rotateRoot := flags.String("rotate-root", "", "yes: replace the root credential, too")
	newRoot := flags.String("new-root", "", "new file that gets the new root credential, with mode 0600")
	confirm := flags.String("confirm", "", "yes: do not ask")
	if flags.Parse(args) != nil || flags.NArg() > 0 {
		return 2
	}
	t, err := open(*kind, *file)
	if err == nil && (*rotateRoot == "yes") != (*newRoot != "") {
		err = errors.New("ROTATE_ROOT=yes replaces the root credential; it needs NEW_ROOT, a new file for the new one, and NEW_ROOT is for nothing else")
	}
	if _, exists := os.Lstat(*newRoot); err == nil && *newRoot != "" && exists == nil {
		err = fmt.Errorf("NEW_ROOT must be a new file, and %s exists", *newRoot)
	}
	if err != nil {
		fmt.Fprintln(out, "live:", err)
		return 2
	}
	t.newRoot, t.out = *newRoot, out
	t.describe()
	if *confirm != "yes" && !confirmed(in, out) {
		fmt.Fprintln(out, "Not confirmed. Nothing was sent.")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	finished := context.AfterFunc(ctx, func() {
		fmt.Fprintln(out, "Stopping: the call that is under way ends first, then what was made is ended.")
	})
	defer finished()
	return t.run(ctx)
}

func confirmed(in io.Reader, out io.Writer) bool {
	fmt.Fprint(out, "\nType yes to go on: ")
	line, _ := bufio.NewReader(in).ReadString('\n')
	return strings.TrimSpace(line) == "yes"
}

// open reads the settings, and opens a connection as the engine does. It makes no call.
func open(kind, file string) (*trial, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the settings: %w", err)
	}
	s, err := parseSettings(kind, string(text))
	if err != nil {
		return nil, err
	}
	t := &trial{settings: s, verifier: registry.New(registry.Options{CAs: s.cas}), patience: 2 * time.Minute, pause: 2 * time.Second, late: 30 * time.Second}
	t.conn.HTTP, t.conn.Now = issuer.NewHTTP(s.cas), time.Now
	return t, t.reopen()
}

// describe prints what the program is about to do, and where.
func (t *trial) describe() {
	where := cmp.Or(t.conn.URL, "the cloud's own API")
	fmt.Fprintf(t.out, "This makes credentials at a real registry, and ends them.\n\n  type        %s\n  url         %s\n  registry    %s\n", t.kind.Name, where, t.key())
	for _, part := range []struct {
		name string
		of   issuer.Settings
	}{{"connection", t.conn.Settings}, {"role", t.target.Settings}} {
		for _, field := range slices.Sorted(maps.Keys(part.of)) {
			fmt.Fprintf(t.out, "  %-11s %s=%s\n", part.name, field, part.of[field])
		}
	}
	for _, field := range slices.Sorted(maps.Keys(t.conn.Secrets)) {
		fmt.Fprintf(t.out, "  connection  %s=(secret)\n", field)
	}
	fmt.Fprintf(t.out, "  repository  %s\n\n", cmp.Or(t.repository, "(none: credentials are tried as docker login does)"))
	fmt.Fprintf(t.out, "It asks whose root credential this is, mints two credentials under names that begin with\nregcred-live-, asks for them to end in %s, and tries them at the registry.\n", t.lifetime())
	if t.can().Revoke {
		fmt.Fprintln(t.out, "It ends both, and proves that they are refused. Nothing else is changed.")
	} else {
		fmt.Fprintln(t.out, "This registry cannot end them early: they end by themselves.")
	}
	if t.newRoot != "" {
		fmt.Fprintf(t.out, "It REPLACES THE ROOT CREDENTIAL at %s: the given one ends, the new one is in %s.\n", where, t.newRoot)
	}
}
