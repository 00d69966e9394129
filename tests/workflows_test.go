// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"vault-plugin-secrets-regcred/tests/servers"
)

// workflow is the part of a workflow that TestWorkflows checks. "make lint"
// checks that the file is valid.
type workflow struct {
	Permissions map[string]string
	Concurrency any
	Jobs        map[string]struct {
		TimeoutMinutes int `json:"timeout-minutes"`
		Permissions    map[string]string
		Strategy       struct{ Matrix map[string][]string }
		Steps          []struct {
			Uses string
			Run  string
			With map[string]any
		}
	}
}

var (
	pinned       = regexp.MustCompile(`(?m)^ +- uses: ([a-z-]+/[a-z-]+@[0-9a-f]{40}) # (v\d+\.\d+\.\d+)$`)
	anyUse       = regexp.MustCompile(`(?m)uses:`)
	makeTarget   = regexp.MustCompile(`(?m)^([a-z0-9-]+):`)
	matrixTarget = "${{ matrix.target }}"
)

// TestWorkflows: workflows call only the Makefile, pin every action to a
// commit, and have no more permissions than they need.
func TestWorkflows(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile(filepath.Join(servers.Repo(), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, match := range makeTarget.FindAllStringSubmatch(string(makefile), -1) {
		targets[match[1]] = true
	}
	files, err := filepath.Glob(filepath.Join(servers.Repo(), ".github", "workflows", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("found no workflows: %v", err)
	}

	versions := map[string]string{} // by action, with its commit
	for _, file := range files {
		name := filepath.Base(file)
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		uses := pinned.FindAllStringSubmatch(string(content), -1)
		if all := anyUse.FindAllString(string(content), -1); len(all) != len(uses) {
			t.Errorf("%s: %d of %d actions are pinned by commit, with the release in a comment", name, len(uses), len(all))
		}
		for _, use := range uses {
			action, _, _ := strings.Cut(use[1], "@")
			if other, seen := versions[action]; seen && other != use[1]+" "+use[2] {
				t.Errorf("%s: %s %s, elsewhere %s", name, use[1], use[2], other)
			}
			versions[action] = use[1] + " " + use[2]
		}

		var w workflow
		if err := yaml.Unmarshal(content, &w); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !maps.Equal(w.Permissions, map[string]string{"contents": "read"}) {
			t.Errorf("%s: permissions: want contents: read, got %v", name, w.Permissions)
		}
		if w.Concurrency == nil {
			t.Errorf("%s: has no concurrency", name)
		}
		for jobName, job := range w.Jobs {
			if job.TimeoutMinutes == 0 {
				t.Errorf("%s: job %s: has no timeout-minutes", name, jobName)
			}
			// The job that publishes runs only after another job has built and
			// tested.
			if len(job.Permissions) > 0 && (name != "release.yml" || jobName != "publish") {
				t.Errorf("%s: job %s: has permissions of its own: %v", name, jobName, job.Permissions)
			}
			for _, step := range job.Steps {
				if strings.HasPrefix(step.Uses, "actions/checkout@") && step.With["persist-credentials"] != false {
					t.Errorf("%s: job %s: the checkout leaves its token behind", name, jobName)
				}
				if step.Run == "" {
					continue
				}
				commands := []string{step.Run}
				if strings.Contains(step.Run, matrixTarget) {
					commands = nil
					for _, target := range job.Strategy.Matrix["target"] {
						commands = append(commands, strings.ReplaceAll(step.Run, matrixTarget, target))
					}
				}
				for _, command := range commands {
					if words := strings.Fields(command); len(words) < 2 || words[0] != "make" || !targets[words[1]] || strings.ContainsAny(command, "\n;|&") {
						t.Errorf("%s: job %s: %q is not one target of the Makefile", name, jobName, command)
					}
				}
			}
		}
	}
	if want := []string{"ci.yml", "nightly.yml", "release.yml"}; !slices.Equal(want, baseNames(files)) {
		t.Errorf("want the workflows %q, got %q", want, baseNames(files))
	}
}

// dependabot is the part of its file that TestDependabotCoversEveryModule
// checks.
type dependabot struct {
	Updates []struct {
		Ecosystem   string `json:"package-ecosystem"`
		Directories []string
	}
}

func TestDependabotCoversEveryModule(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join(servers.Repo(), ".github", "dependabot.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var config dependabot
	if err := yaml.Unmarshal(content, &config); err != nil {
		t.Fatal(err)
	}
	directories := map[string][]string{}
	for _, update := range config.Updates {
		directories[update.Ecosystem] = append(directories[update.Ecosystem], update.Directories...)
	}
	if want := []string{"/"}; !slices.Equal(want, directories["github-actions"]) {
		t.Errorf("directories of github-actions: want %q, got %q", want, directories["github-actions"])
	}

	modules := moduleDirs(t)
	covers := func(pattern, module string) bool {
		matches, err := path.Match(pattern, module)
		if err != nil {
			t.Fatalf("directory %q: %v", pattern, err)
		}
		return matches
	}
	for _, module := range modules {
		if !slices.ContainsFunc(directories["gomod"], func(pattern string) bool { return covers(pattern, module) }) {
			t.Errorf("%s/go.mod is in none of the directories %q", module, directories["gomod"])
		}
	}
	for _, pattern := range directories["gomod"] {
		if !slices.ContainsFunc(modules, func(module string) bool { return covers(pattern, module) }) {
			t.Errorf("directory %q: has no go.mod", pattern)
		}
	}
}

// moduleDirs returns the folders of the repository that have a go.mod, as
// "/tests". Folders that git ignores are left out: bin, dist, and hidden ones.
func moduleDirs(t *testing.T) []string {
	t.Helper()
	var dirs []string
	err := fs.WalkDir(os.DirFS(servers.Repo()), ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := entry.Name(); entry.IsDir() && file != "." && (name == "bin" || name == "dist" || strings.HasPrefix(name, ".")) {
			return fs.SkipDir
		}
		if entry.Name() == "go.mod" {
			dirs = append(dirs, path.Join("/", path.Dir(file)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

func baseNames(paths []string) []string {
	var names []string
	for _, path := range paths {
		names = append(names, filepath.Base(path))
	}
	return names
}
