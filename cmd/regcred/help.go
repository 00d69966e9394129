// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"io"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
	"vault-plugin-secrets-regcred/cmd/regcred/importer"
	"vault-plugin-secrets-regcred/cmd/regcred/install"
	"vault-plugin-secrets-regcred/cmd/regcred/kubelet"
)

// help prints the page of a command, or the list of all.
func help(out io.Writer, args []string) error {
	if len(args) == 0 {
		text := "regcred gives those who pull images the credentials that Vault has for them.\n\nUsage: regcred <command>\n\n"
		for _, c := range commands() {
			text += fmt.Sprintf("  %-9s %s\n", c.name, c.summary)
		}
		text += "\n\"regcred help <command>\" describes one, \"regcred -version\" prints the version.\n"
		_, err := io.WriteString(out, text)
		return err
	}
	for _, c := range commands() {
		if c.name == args[0] {
			if _, err := io.WriteString(out, c.help); err != nil {
				return err
			}
			switch c.name {
			case "kubelet", "check":
				return kubelet.WriteFlags(out, c.name == "check")
			case "import":
				return importer.WriteFlags(out)
			case "install":
				return install.WriteFlags(out)
			}
			return nil
		}
	}
	return &client.Failure{What: fmt.Sprintf("there is no command %q", args[0]), Do: "\"regcred help\" lists them"}
}

const kubeletHelp = `Usage: regcred kubelet [flags]
   or: regcred-credential-provider [flags]

The kubelet starts this program under its second name, writes a
CredentialProviderRequest to its standard input, and reads the answer from its
standard output. The program logs in to Vault with the token of the pod's service
account, reads creds/<role>, and answers with every registry of that pull secret.
If it fails, it prints one line and exits with status 1.

The configuration is /etc/regcred/kubelet.yaml, or kubelet-NAME.yaml if the
program is called regcred-credential-provider-NAME. Vault's environment variables
go before the file, and flags before both.

Flags:
`

const dockerHelp = `Usage: regcred docker get|list|store|erase|version
   or: docker-credential-regcred get|list|store|erase|version

Docker, podman and others start this program under its second name. "get" reads a
registry from the standard input, and answers with user name and password of the
role that the configuration has for it. "list" answers with all registries. "store"
and "erase" change nothing, and say so.

In ~/.docker/config.json:

    {"credHelpers": {"ghcr.io": "regcred"}}

In ~/.config/regcred/docker.yaml or /etc/regcred/docker.yaml, or in the file that
REGCRED_DOCKER_CONFIG names:

    role: my_app            # for every registry that its pull secret holds
    roles:
      ghcr.io: other_app    # for this one

REGCRED_ROLE takes the place of role, and REGCRED_MOUNT that of mount. Vault's
address and token are those of the Vault CLI: VAULT_ADDR, VAULT_AGENT_ADDR,
VAULT_TOKEN, ~/.vault-token and the rest.
`

const checkHelp = `Usage: regcred check docker REGISTRY
   or: regcred check kubelet [flags]

Does what Docker or the kubelet would have this program do, and prints a line for
each step: what was found, what failed, and what to do about it. It prints no
password and no token, and exits with status 1 if a step failed.

    regcred check docker ghcr.io
    kubectl -n team-a create token web --audience=vault |
      regcred check kubelet --image=ghcr.io/acme/app --token-file=-

On a node, give what the kubelet has as -image-credential-provider-config and
-image-credential-provider-bin-dir. Then the program also checks the kubelet's own
file, and takes its arguments and variables from there; flags go before these.

Flags of "check kubelet":
`

const importHelp = `Usage: regcred import kv PATH [flags]
   or: regcred import secrets [flags]

Brings pull secrets into static roles of the engine: from a KV engine of version 1 or
2, all secrets below a path; or from a cluster, all Secrets of type
kubernetes.io/dockerconfigjson and .dockercfg, which kubectl reads.

Without -apply it shows what it would do, and writes nothing. Sources with the same
content become one role. A role that exists with other content stays as it is, unless
-overwrite names it. No user name and no password is printed. At the end it compares
what each source pulls with before and after.

    regcred import kv kv/pull-secrets
    regcred import secrets -namespace=team-a -apply

Vault's address and token are those of the Vault CLI.

Exit status: 0 every role is as it should be, 1 failed, 3 -apply would write
something, 4 something is left out, clashes, or exists with other content.
`

const installHelp = `Usage: regcred install -from=FOLDER -bin-dir=FOLDER -config=FILE [flags]

Puts what the kubelet needs onto a node: this program under the name of the
provider, the files of -from into /etc/regcred, and the entry in -from's
credential-provider.yaml into the kubelet's file, beside the providers that are
there. It checks everything first, replaces each file at once, and changes nothing
that is as it should be. What it changes it prints. The file as it was before stays
beside it, as FILE.before-regcred.

The kubelet reads its file only when it starts: restart it after a change of that
file. No other change needs a restart.

    regcred install -from=files -bin-dir=/var/lib/rancher/credentialprovider/bin \
      -config=/var/lib/rancher/credentialprovider/config.yaml

Flags:
`
