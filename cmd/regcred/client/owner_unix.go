// SPDX-License-Identifier: MPL-2.0

//go:build unix

package client

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// writableByOthers says how users other than root and that of this process can
// write a file or replace files in a folder; "" if they cannot.
func writableByOthers(info fs.FileInfo) string {
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid() {
		return fmt.Sprintf("belongs to user %d, not to root or the user of this process", owner.Uid)
	}
	sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0 // there only the owner of a file replaces it
	if others := info.Mode().Perm() & 0o022; others != 0 && !sticky {
		return fmt.Sprintf("can be written by others (mode %04o)", info.Mode().Perm())
	}
	return ""
}
