// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// commands are the operations of a path in words, with the command of Vault's CLI.
var commands = []struct {
	op            logical.Operation
	done, command string
}{
	{logical.ListOperation, "listed", "vault list"},
	{logical.ReadOperation, "read", "vault read"},
	{logical.CreateOperation, "written", ""}, // the same command as an update
	{logical.UpdateOperation, "written", "vault write -f"},
	{logical.PatchOperation, "patched", "vault patch"},
	{logical.DeleteOperation, "deleted", "vault delete"},
}

// explainUnsupported says in place of "unsupported operation" what a path can do, and
// where those who look at creds/ as a whole find the names. Other errors stay as they
// are. path is nil if the engine has none for the request.
func explainUnsupported(req *logical.Request, path *framework.Path, err error) error {
	at := strings.TrimSuffix(req.MountPoint+req.Path, "/")
	switch {
	case errors.Is(err, logical.ErrUnsupportedPath) && strings.TrimSuffix(req.Path, "/") == "creds":
		return logical.CodedError(http.StatusMethodNotAllowed, fmt.Sprintf(
			`creds/ has no list, so that no tool can copy every credential; "vault list %sroles" lists the names, and "vault read %s/<role>" reads one pull secret`, req.MountPoint, at))
	case errors.Is(err, logical.ErrUnsupportedOperation) && path != nil:
		done := string(req.Operation)
		var can []string
		for _, c := range commands {
			if c.op == req.Operation {
				done = c.done
			}
			if path.Operations[c.op] != nil && c.command != "" {
				command := c.command
				if c.op == logical.UpdateOperation && path.Operations[logical.CreateOperation] != nil {
					command = "vault write"
				}
				can = append(can, fmt.Sprintf("%q", command+" "+at))
			}
		}
		text := fmt.Sprintf("%q cannot be %s; what works is %s", at, done, strings.Join(can, ", "))
		if req.Operation == logical.ReadOperation && path.Operations[logical.ListOperation] != nil {
			text += fmt.Sprintf(`, and "vault read %s/<name>" for one of them`, at)
		}
		return logical.CodedError(http.StatusMethodNotAllowed, text)
	}
	return err
}
