// SPDX-License-Identifier: MPL-2.0

// Package install puts the kubelet provider onto a node: the program, its
// configuration, and its entry in the kubelet's file. It also takes them away.
//
// At any moment, and also if it is killed, a kubelet that starts finds files that
// it can start with: it ends if its file names a program that is not there.
package install

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	provider "k8s.io/kubelet/config/v1"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
	"vault-plugin-secrets-regcred/cmd/regcred/kubelet"
)

// entryFile is the file in the source folder that has the provider's entry for the
// kubelet.
const entryFile = "credential-provider.yaml"

// extensions are those of the files that the kubelet reads of a folder.
var extensions = []string{".json", ".yaml", ".yml"}

// options are the flags.
type options struct {
	from, binDir, config, to       string
	every                          time.Duration
	mustExist, remove, deleteEmpty bool
}

func newFlags() (*flag.FlagSet, *options) {
	flags, o := flag.NewFlagSet("install", flag.ContinueOnError), &options{}
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.from, "from", "", "`folder` with "+entryFile+" and the files for -to")
	flags.StringVar(&o.binDir, "bin-dir", "", "`folder` that the kubelet's --image-credential-provider-bin-dir names")
	flags.StringVar(&o.config, "config", "", "`file` that the kubelet's --image-credential-provider-config names, or a file in the folder that it names")
	flags.StringVar(&o.to, "to", client.SystemFolder, "`folder` for the provider's configuration")
	flags.BoolVar(&o.mustExist, "must-exist", false, "fail if there is no -config: others have to make it")
	flags.DurationVar(&o.every, "every", 0, "do it again and again, with this `pause`; 0: once")
	flags.BoolVar(&o.remove, "remove", false, "take everything away")
	flags.BoolVar(&o.deleteEmpty, "delete-empty", false, "with -remove: delete -config if it has no other provider. Only where the kubelet starts without it")
	return flags, o
}

// WriteFlags describes the flags.
func WriteFlags(out io.Writer) error {
	flags, _ := newFlags()
	var text strings.Builder
	flags.SetOutput(&text)
	flags.PrintDefaults()
	_, err := io.WriteString(out, text.String())
	return err
}

// Run does what the arguments say, and prints what it has changed. With -every it
// ends with the context, or with the first failure.
func Run(ctx context.Context, args []string, version string, out io.Writer) error {
	flags, o := newFlags()
	switch err := flags.Parse(args); {
	case err != nil:
		return &client.Failure{What: "arguments: " + err.Error(), Do: `"regcred help install" lists them`}
	case flags.NArg() > 0:
		return &client.Failure{What: fmt.Sprintf("arguments: %q is no flag", flags.Arg(0)), Do: `"regcred help install" lists them`}
	}
	if err := o.check(); err != nil {
		return err
	}
	r := run{options: *o, version: version, files: files{out: out}}
	for first := true; ; first = false {
		r.quiet = !first
		if err := r.pass(); err != nil || o.every == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(o.every):
		}
	}
}

func (o *options) check() error {
	if o.from == "" {
		return &client.Failure{What: "arguments: -from must name a folder", Do: `"regcred help install" describes it`}
	}
	for _, path := range []struct{ flag, value string }{{"bin-dir", o.binDir}, {"config", o.config}, {"to", o.to}} {
		if !filepath.IsAbs(path.value) {
			return &client.Failure{What: fmt.Sprintf("arguments: -%s must be an absolute path", path.flag), Do: `"regcred help install" describes it`}
		}
	}
	switch {
	case !slices.Contains(extensions, filepath.Ext(o.config)):
		return &client.Failure{What: "arguments: -config must end in .json, .yaml or .yml", Do: "the kubelet reads no other file of a folder"}
	case o.every < 0 || o.every > 0 && o.every < time.Second:
		return &client.Failure{What: "arguments: -every must be 0, or at least 1s"}
	case o.deleteEmpty && !o.remove:
		return &client.Failure{What: "arguments: -delete-empty is for -remove only"}
	}
	return nil
}

// run is what all passes have in common.
type run struct {
	options
	files
	version string
}

// wanted is what a node should have.
type wanted struct {
	entries  []entry           // of the kubelet's file
	settings map[string][]byte // by the name of the file
}

func (r *run) pass() error {
	w, err := r.read()
	if err != nil {
		return err
	}
	if r.remove {
		return r.takeAway(w)
	}
	return r.putInPlace(w)
}

// executable returns the path of this program. Tests have a small file in its place.
var executable = os.Executable

// putInPlace writes the program before the file that names it.
func (r *run) putInPlace(w wanted) error {
	for _, folder := range []string{r.binDir, r.to, filepath.Dir(r.config)} {
		if err := makeFolder(folder); err != nil {
			return err
		}
	}
	program, err := executable()
	if err != nil {
		return &client.Failure{What: "this program cannot be found: " + why(err)}
	}
	content, err := os.ReadFile(program) //nolint:gosec // the program itself
	if err != nil {
		return &client.Failure{What: "this program cannot be read: " + why(err)}
	}
	for _, e := range w.entries {
		if err := r.put(filepath.Join(r.binDir, e.name), content, 0o755, "version "+r.version); err != nil {
			return err
		}
	}
	for _, name := range sorted(w.settings) {
		if err := r.put(filepath.Join(r.to, name), w.settings[name], 0o644, "read at each pull"); err != nil {
			return err
		}
	}
	return r.addEntries(w.entries)
}

// takeAway deletes the program after the file no longer names it. What a kubelet
// would need that has not restarted is the program: until then it logs a failure at
// each pull, and goes on with other credentials.
func (r *run) takeAway(w wanted) error {
	if err := r.removeEntries(w.entries); err != nil {
		return err
	}
	for _, name := range sorted(w.settings) {
		if err := r.delete(filepath.Join(r.to, name)); err != nil {
			return err
		}
	}
	for _, e := range w.entries {
		if err := r.delete(filepath.Join(r.binDir, e.name)); err != nil {
			return err
		}
	}
	return nil
}

// read reads and checks the source folder, so that nothing reaches the node with
// which the kubelet would not start, or the provider would fail.
func (r *run) read() (wanted, error) {
	w := wanted{settings: map[string][]byte{}}
	found, err := os.ReadDir(r.from)
	if err != nil {
		return w, &client.Failure{What: fmt.Sprintf("-from: %s cannot be read: %s", r.from, why(err))}
	}
	for _, f := range found {
		path := filepath.Join(r.from, f.Name())
		// Kubernetes keeps the files of a ConfigMap in folders that begin with "..".
		if info, err := os.Stat(path); strings.HasPrefix(f.Name(), ".") || err == nil && info.IsDir() {
			continue
		}
		content, err := os.ReadFile(path) //nolint:gosec // the caller says what to install
		if err != nil {
			return w, &client.Failure{What: fmt.Sprintf("-from: %s cannot be read: %s", path, why(err))}
		}
		w.settings[f.Name()] = content
	}
	path := filepath.Join(r.from, entryFile)
	content, there := w.settings[entryFile]
	if !there {
		return w, &client.Failure{What: path + " does not exist", Do: "docs/client/kubelet.md shows one"}
	}
	delete(w.settings, entryFile)
	if w.entries, err = entriesOf(path, content); err != nil {
		return w, err
	}
	var typed provider.CredentialProviderConfig
	if err := client.Unmarshal(content, &typed); err != nil {
		return w, &client.Failure{What: path + ": " + err.Error(), Do: "Kubernetes documents the fields as kubelet-config.v1"}
	}
	completed := map[string]bool{}
	for _, p := range typed.Providers {
		if err := kubelet.CheckEntry(p); err != nil {
			return w, &client.Failure{What: fmt.Sprintf("%s: %s", path, client.Line(err))}
		}
		name := kubelet.ConfigName(p.Name)
		if _, twice := completed[name]; twice {
			return w, &client.Failure{What: fmt.Sprintf("%s: the provider %s is there twice: the kubelet does not start", path, p.Name), Do: "give one of them another name"}
		}
		completed[name] = len(p.Args) > 0
	}
	for name, content := range w.settings {
		if strings.HasPrefix(name, "kubelet") {
			if err := kubelet.CheckConfig(filepath.Join(r.from, name), content, completed[name]); err != nil {
				return w, err
			}
		}
	}
	return w, nil
}

func sorted(files map[string][]byte) []string { return slices.Sorted(maps.Keys(files)) }
