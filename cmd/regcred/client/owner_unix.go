// SPDX-License-Identifier: MPL-2.0

//go:build unix

package client

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// writableByOthers says how users other than root and that of this process can
// write a file or replace files in a folder; "" if they cannot.
func writableByOthers(info fs.FileInfo) string {
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid() && int(owner.Uid) != unmappedUser("/proc") {
		return fmt.Sprintf("belongs to user %d, not to root or the user of this process", owner.Uid)
	}
	sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0 // there only the owner of a file replaces it
	if others := info.Mode().Perm() & 0o022; others != 0 && !sticky {
		return fmt.Sprintf("can be written by others (mode %04o)", info.Mode().Perm())
	}
	return ""
}

// unmappedUser returns the user that the kernel shows for all users that this process's
// user namespace does not have; -1 if it has all. Rootless podman runs credential
// helpers in one that has no root of the machine, to whom /etc belongs. So there an
// owner who may be root is taken for root.
func unmappedUser(proc string) int {
	mapped, err := os.ReadFile(proc + "/self/uid_map") //nolint:gosec // the kernel's own file
	if err != nil || slices.Equal(strings.Fields(string(mapped)), []string{"0", "0", "4294967295"}) {
		return -1
	}
	shown, err := os.ReadFile(proc + "/sys/kernel/overflowuid") //nolint:gosec // as well
	if err != nil {
		return -1
	}
	user, err := strconv.Atoi(strings.TrimSpace(string(shown)))
	if err != nil {
		return -1
	}
	return user
}
