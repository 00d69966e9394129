// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// KillPlugin waits until the plugin serves requests, kills its process with
// SIGKILL, and returns the process id.
func (v *Vault) KillPlugin(t testing.TB) int {
	t.Helper()
	pid := v.PluginPID(t)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return pid
}

// PluginPID waits until the plugin serves requests, and returns its process id.
func (v *Vault) PluginPID(t testing.TB) int {
	t.Helper()
	v.WaitUntilServed(t)
	pids := v.PluginPIDs(t)
	if len(pids) != 1 {
		t.Fatalf("want one plugin process, got %v", pids)
	}
	return pids[0]
}

// WaitUntilServed reads until there is an answer. Requests fail until Vault has
// noticed that the process is gone; the next request starts it again.
func (v *Vault) WaitUntilServed(t testing.TB) {
	t.Helper()
	Eventually(t, func() error {
		_, err := v.Client.Logical().Read(Mount + "/config")
		if err != nil {
			err = fmt.Errorf("the plugin does not come back: %w", err)
		}
		return err
	})
}

// PluginPIDs finds the plugin's processes among the children of Vault.
func (v *Vault) PluginPIDs(t testing.TB) []int {
	t.Helper()
	return childrenOf(t, v.PID())
}

// childrenOf returns the running processes that another one has started.
func childrenOf(t testing.TB, of int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, stat := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		if err != nil {
			t.Fatal(err)
		}
		if parent, running := parentOf(pid); running && parent == of {
			pids = append(pids, pid)
		}
	}
	return pids
}

// PIDOf returns the process id of a plugin that was registered under a name by
// [Vault.RegisterAs] and has received a request.
func (v *Vault) PIDOf(t testing.TB, name string) int {
	t.Helper()
	var found []int
	for _, pid := range v.PluginPIDs(t) {
		program, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
		if err == nil && filepath.Base(program) == name {
			found = append(found, pid)
		}
	}
	if len(found) != 1 {
		t.Fatalf("want one process of the plugin %s, got %v", name, found)
	}
	return found[0]
}

// Running reports whether a process has not ended.
func Running(pid int) bool {
	_, running := parentOf(pid)
	return running
}

func parentOf(pid int) (parent int, running bool) {
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, false
	}
	// pid (name) state ppid …; the name may have spaces.
	_, rest, _ := strings.Cut(string(content), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 || fields[0] == "Z" || fields[0] == "X" {
		return 0, false
	}
	parent, err = strconv.Atoi(fields[1])
	return parent, err == nil
}

// KillProcess kills a process with SIGKILL and reports whether it ends.
func KillProcess(t testing.TB, pid int) bool {
	_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended already
	return Ends(t, pid)
}

// Ends waits until a process has ended, and reports whether it does.
func Ends(t testing.TB, pid int) bool {
	return nil == TryUntil(Limit(t), func() error {
		if Running(pid) {
			return fmt.Errorf("process %d runs", pid)
		}
		return nil
	})
}
