// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/tests/servers"
)

// The limits of the client, which runs at every pull: memory in KiB, and the size
// of the program in bytes.
const maxClientMemory, maxClientSize = 25 << 10, 12 << 20

// TestClientIsSmall measures the program, and a provider that has logged in and
// has read a pull secret of 1,000 registries, the most there are.
func TestClientIsSmall(t *testing.T) {
	t.Parallel()
	w := newClientWorld(t)
	var registries []string
	for i := range 1000 {
		registries = append(registries, fmt.Sprintf("registry-%d.example.com", i))
	}
	w.role("team-a", registries...)
	program := filepath.Join(servers.ClientAs(t, "regcred-credential-provider"), "regcred-credential-provider")
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("size of the program: %d bytes", info.Size())
	if info.Size() > maxClientSize {
		t.Errorf("want at most %d bytes, got %d", maxClientSize, info.Size())
	}

	// The answer is longer than a pipe holds. So once its first byte is there, the
	// provider has done all its work, and waits for somebody to read the rest.
	cmd := exec.CommandContext(t.Context(), program, "-config="+w.kubeletConfig())
	cmd.Env, cmd.Stdin = []string{}, strings.NewReader(w.request("team-a", "registry-1.example.com/app"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	// What everybody on the machine sees of a process.
	for _, name := range []string{"cmdline", "environ", "status"} {
		shown, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", cmd.Process.Pid, name))
		if err != nil {
			t.Fatal(err)
		}
		w.quiet(name+" of the process", string(shown))
	}
	peak := peakMemory(t, cmd.Process.Pid)
	t.Logf("peak of its memory: %d KiB", peak)
	if peak > maxClientMemory {
		t.Errorf("want at most %d KiB, got %d", maxClientMemory, peak)
	}
	rest, err := io.ReadAll(out)
	if err != nil || len(rest) < 64<<10 || cmd.Wait() != nil {
		t.Errorf("want an answer that no pipe holds, got %d bytes, %v", len(rest), err)
	}
}

var peakLine = regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`)

// peakMemory returns the most memory that a process has had resident, in KiB. What
// wait reports for a process includes the memory of the one that started it.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	match := peakLine.FindSubmatch(status)
	if match == nil {
		t.Fatalf("no VmHWM in %s", status)
	}
	peak, err := strconv.Atoi(string(match[1]))
	if err != nil {
		t.Fatal(err)
	}
	return peak
}
