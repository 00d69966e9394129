// SPDX-License-Identifier: MPL-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFilesThatNameEachOtherAreFound(t *testing.T) {
	for _, test := range []struct {
		name   string
		files  map[string]string
		cycles [][]string
	}{
		{
			name:   "two functions",
			files:  map[string]string{"a.go": "func a() { b() }", "b.go": "func b() {}; func c() { a() }", "d.go": "func d() { a() }"},
			cycles: [][]string{{"a.go", "b.go"}},
		},
		{
			name:  "top down",
			files: map[string]string{"a.go": "func a() { b(); c() }", "b.go": "func b() { c() }", "c.go": "func c() {}"},
		},
		{
			name:   "a method of the hub",
			files:  map[string]string{"hub.go": "type hub struct { n int }; func (h *hub) top() { h.low() }", "low.go": "func (h *hub) low() { h.top() }"},
			cycles: [][]string{{"hub.go", "low.go"}},
		},
		{
			name:  "the hub and its fields do not count",
			files: map[string]string{"hub.go": "type hub struct { n int }; func (h *hub) top() { h.low() }", "low.go": "func (h *hub) low() { h.n = 1 }"},
		},
		{
			name:   "the field of another type",
			files:  map[string]string{"a.go": "type thing struct { n int }; func a() { b() }", "b.go": "func b() { use(struct{ t *thing }{}) }; func use(v struct{ t *thing }) { v.t.n = 1 }"},
			cycles: [][]string{{"a.go", "b.go"}},
		},
		{
			name:  "a test file",
			files: map[string]string{"a.go": "func a() {}", "a_test.go": "func b() { a() }"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			folder := t.TempDir()
			files := map[string]string{"go.mod": "module example\n"}
			for name, text := range test.files {
				files[name] = "package example\n" + text + "\n"
			}
			if test.files["hub.go"] == "" {
				files["hub.go"] = "package example\ntype hub struct{}\n"
			}
			for name, text := range files {
				if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			graph, err := load(folder, "hub")
			if err != nil {
				t.Fatal(err)
			}
			if _, got := graph.components(); !cmp.Equal(got, test.cycles) {
				t.Errorf("cycles: %v, not %v", got, test.cycles)
			}
		})
	}
}

func TestPackageThatDoesNotCompileIsAnError(t *testing.T) {
	folder := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module example\n", "a.go": "package example\nvar a = b\n"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := load(folder, ""); err == nil {
		t.Error("it was loaded")
	}
}
