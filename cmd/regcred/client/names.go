// SPDX-License-Identifier: MPL-2.0

package client

import (
	"path/filepath"
	"strings"
)

// SystemFolder is where a machine's configurations are.
const SystemFolder = "/etc/regcred"

// ProgramName returns the name by which a program was called, without folder and
// ".exe".
func ProgramName(arg0 string) string { return strings.TrimSuffix(filepath.Base(arg0), ".exe") }

// Instance returns what a program's name has after the usual one, "-work" for
// docker-credential-regcred-work. So one machine can have several
// configurations.
func Instance(program, usual string) string {
	instance, found := strings.CutPrefix(program, usual)
	if !found || !strings.HasPrefix(instance, "-") {
		return ""
	}
	return instance
}
