// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/tests/servers"
)

var (
	logCall = regexp.MustCompile(`\.(?:Warn|Error)\("([^"]+)"`)
	logHead = regexp.MustCompile("(?m)^\\*\\*`([^`]+)`\\*\\*$")
)

// TestLogLinesAreDocumented compares the plugin's log lines of level WARN and
// ERROR with those in docs/operations.md.
func TestLogLinesAreDocumented(t *testing.T) {
	t.Parallel()
	_, section, found := strings.Cut(operationsSection(t, "Monitoring and alerts"), "\n### Log lines\n")
	if !found {
		t.Fatal(`docs/operations.md has no section "Log lines"`)
	}
	documented := map[string]bool{}
	for _, row := range logHead.FindAllStringSubmatch(section, -1) {
		documented[row[1]] = true
	}
	written := map[string]bool{}
	for _, folder := range []string{"backend", "cmd"} {
		root := filepath.Join(servers.Repo(), folder)
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "test"+string(filepath.Separator)) {
				return err
			}
			source, err := os.ReadFile(path)
			for _, call := range logCall.FindAllStringSubmatch(string(source), -1) {
				written[call[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for line := range written {
		if !documented[line] {
			t.Errorf("docs/operations.md does not explain the log line %q", line)
		}
	}
	for line := range documented {
		if !written[line] {
			t.Errorf("docs/operations.md explains %q, which is in no log", line)
		}
	}
	if len(written) < 10 {
		t.Errorf("found %d lines in the source", len(written))
	}
}

// operationsSection returns a section of docs/operations.md.
func operationsSection(t *testing.T, heading string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(servers.Repo(), "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("docs/operations.md has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	return section
}
