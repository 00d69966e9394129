// SPDX-License-Identifier: MPL-2.0

package clients

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"testing"

	"vault-plugin-secrets-regcred/tests/servers"
)

// Login is a user name and password that a reader finds in a pull secret.
type Login struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// LookUp is one question to a reader: which credential does this Docker config
// hold for this image?
type LookUp struct {
	Config string `json:"config"`
	Image  string `json:"image,omitempty"`

	// For readers that have a configuration of their own, which names the Secret
	// that holds the Docker config.
	Secret   string `json:"secret,omitempty"` // namespace/name
	Manifest string `json:"manifest,omitempty"`
}

// Found is a reader's answer.
type Found struct {
	Credentials []Login           `json:"credentials"`
	Read        map[string]string `json:"read"` // from the manifest
	Error       string            `json:"error"`
}

// Ask asks a reader that is a program, because its library needs a module of
// its own: "read-kubelet", "read-containers", "read-flux" or
// "read-image-updater".
func Ask(t testing.TB, reader string, questions []LookUp) []Found {
	t.Helper()
	in, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), servers.Bin(t, reader))
	cmd.Stdin = bytes.NewReader(in)
	cmd.Env = []string{"HOME=" + t.TempDir(), "TMPDIR=" + t.TempDir()}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", reader, err, stderr.String())
	}
	var answers []Found
	if err := json.Unmarshal(out, &answers); err != nil {
		t.Fatalf("%s: %v", reader, err)
	}
	return answers
}
