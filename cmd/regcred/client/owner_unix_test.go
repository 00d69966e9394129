// SPDX-License-Identifier: MPL-2.0

//go:build unix

package client

import (
	"os"
	"path/filepath"
	"testing"
)

// TestUnmappedUser: only a process that does not have all users is shown one that
// stands for several.
func TestUnmappedUser(t *testing.T) {
	for what, c := range map[string]struct {
		files map[string]string
		want  int
	}{
		"the machine's namespace": {map[string]string{"self/uid_map": "         0          0 4294967295\n", "sys/kernel/overflowuid": "65534\n"}, -1},
		"rootless podman":         {map[string]string{"self/uid_map": "         0       1000          1\n         1     100000      65536\n", "sys/kernel/overflowuid": "65534\n"}, 65534},
		"another overflow":        {map[string]string{"self/uid_map": "0 1000 1\n", "sys/kernel/overflowuid": "99\n"}, 99},
		"no overflow":             {map[string]string{"self/uid_map": "0 1000 1\n"}, -1},
		"no /proc":                {nil, -1},
	} {
		proc := t.TempDir()
		for name, text := range c.files {
			path := filepath.Join(proc, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := unmappedUser(proc); got != c.want {
			t.Errorf("%s: want %d, got %d", what, c.want, got)
		}
	}
}
