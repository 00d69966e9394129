// SPDX-License-Identifier: MPL-2.0

package kubelet

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
	"vault-plugin-secrets-regcred/cmd/regcred/internal/vaulttest"
)

// kubeletsFile is a file of the kubelet, as docs/client/kubelet.md has it.
const kubeletsFile = `apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: ecr-credential-provider
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    matchImages: ["*.dkr.ecr.*.amazonaws.com"]
    defaultCacheDuration: 0s
  - name: regcred-credential-provider
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    args: [-role-annotation=regcred.example.com/role, "-role={namespace}", -auth-role=wrong]
    env: [{name: REGCRED_MOUNT, value: pull}]
    matchImages: [ghcr.io, docker.io]
    defaultCacheDuration: 0s
    tokenAttributes:
      serviceAccountTokenAudience: vault
      cacheType: ServiceAccount
      requireServiceAccount: true
      optionalServiceAccountAnnotationKeys: [regcred.example.com/role]
`

// node is what check finds on a node.
type node struct {
	*testing.T
	file, binDir, token string
}

func newNode(t *testing.T) node {
	t.Helper()
	newVault(t).Answer("pull/creds/team-a", `{"data":{".dockerconfigjson":"{\"auths\":{\"ghcr.io\":{\"username\":\"robot\",\"password\":\"`+vaulttest.Marker+`\",\"auth\":\"x\"}}}"}}`)
	n := node{T: t, file: filepath.Join(t.TempDir(), "providers.yaml"), binDir: t.TempDir(), token: filepath.Join(t.TempDir(), "token")}
	n.write(n.token, tokenOf("team-a", "web"), 0o600)
	n.write(n.file, kubeletsFile, 0o600)
	n.write(filepath.Join(n.binDir, Program), "#!/bin/sh\necho v1.2.3\n", 0o700)
	return n
}

func (n node) write(path, text string, mode os.FileMode) {
	n.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		n.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		n.Fatal(err)
	}
}

// check returns what "regcred check kubelet" says, and whether all went well.
func (n node) check(more ...string) (string, bool) {
	n.Helper()
	var out bytes.Buffer
	steps := &client.Steps{Out: &out}
	args := []string{"-image-credential-provider-config=" + n.file, "-image-credential-provider-bin-dir=" + n.binDir, "-auth-role=pull", "-token-file=" + n.token, "-image=ghcr.io/acme/app"}
	Check(n.Context(), Program, append(args, more...), nil, steps)
	if strings.Contains(out.String(), vaulttest.Marker) {
		n.Errorf("a secret is shown: %s", out.String())
	}
	return out.String(), !steps.Failed()
}

func TestCheckReadsTheKubeletsOwnFile(t *testing.T) {
	n := newNode(t)
	out, ok := n.check()
	for _, want := range []string{
		"ok    kubelet        " + n.file + ", provider regcred-credential-provider\n",
		"ok    matchImages    ghcr.io/acme/app is matched by ghcr.io\n",
		"ok    program        " + filepath.Join(n.binDir, Program) + ", version v1.2.3\n",
		"note                 VAULT_ADDR is set here; the program has it only if the kubelet itself has\n",
		"ok    role           team-a, by template {namespace}\n", // from its args
		"ok    read           pull/creds/team-a\n",               // from its env
	} {
		if !ok || !strings.Contains(out, want) {
			t.Errorf("want %q, got\n%s", want, out)
		}
	}
	// The kubelet also takes a folder, and a name other than the usual one.
	n.write(filepath.Join(filepath.Dir(n.file), "other.json"), `{"apiVersion":"kubelet.config.k8s.io/v1","kind":"CredentialProviderConfig","providers":[{"name":"regcred-credential-provider-b"}]}`, 0o600)
	n.file = filepath.Dir(n.file)
	if out, ok := n.check(); ok || !strings.Contains(out, "has several providers of this program: regcred-credential-provider-b, regcred-credential-provider\n                     what to do: choose one with -provider\n") {
		t.Errorf("several: got\n%s", out)
	}
	if out, ok := n.check("-provider=" + Program); !ok {
		t.Errorf("one of several: got\n%s", out)
	}
}

// TestCheckSaysWhatIsWrongInTheKubeletsFile changes the file, one line at a time.
func TestCheckSaysWhatIsWrongInTheKubeletsFile(t *testing.T) {
	for name, c := range map[string]struct {
		old, new string
		args     []string
		want     string
	}{
		"kind":                  {old: "kind: CredentialProviderConfig", new: "kind: KubeletConfiguration", want: `is of kind "KubeletConfiguration"`},
		"unknown field":         {old: "    matchImages: [ghcr", new: "    matchImage: [ghcr", want: `unknown field "providers[1].matchImage"`},
		"field in other case":   {old: "docker.io]\n    default", new: "docker.io]\n    Default", want: `unknown field "providers[1].DefaultCacheDuration"`},
		"no provider":           {old: "name: regcred-", new: "name: other-", want: "has no provider called regcred-credential-provider; it has ecr-credential-provider, other-credential-provider"},
		"another name":          {args: []string{"-provider=ecr-credential-provider"}, want: "the name ecr-credential-provider tells the program nothing"},
		"no such name":          {args: []string{"-provider=x"}, want: "has no provider called x"},
		"apiVersion":            {old: "k8s.io/v1\n    args", new: "k8s.io/v1beta1\n    args", want: `apiVersion of the provider is "credentialprovider.kubelet.k8s.io/v1beta1", in which the kubelet passes no tokens`},
		"defaultCacheDuration":  {old: "docker.io]\n    defaultCacheDuration: 0s", new: "docker.io]", want: "defaultCacheDuration is missing"},
		"audience is missing":   {old: "      serviceAccountTokenAudience: vault\n", want: "serviceAccountTokenAudience is missing"},
		"another audience":      {old: "Audience: vault", new: "Audience: other", want: "it is for the audience vault, and the kubelet asks for tokens for other\n                     what to do: kubectl -n team-a create token web --audience=other\n"},
		"cacheType":             {old: "cacheType: ServiceAccount", new: "cacheType: Pod", want: `cacheType is "Pod"`},
		"cacheType Token":       {old: "cacheType: ServiceAccount", new: "cacheType: Token", args: []string{"-image=x"}, want: "with cacheType Token, the kubelet keeps an answer for one pod only"},
		"requireServiceAccount": {old: "      requireServiceAccount: true\n", want: "requireServiceAccount is missing"},
		"required and optional": {old: "      optional", new: "      requiredServiceAccountAnnotationKeys: [regcred.example.com/role]\n      optional", want: "as required and as optional"},
		"required and none":     {old: "true\n      optional", new: "false\n      required", want: "required annotations, and requireServiceAccount: false"},
		"required annotation":   {old: "      optional", new: "      required", want: "the service account has no annotation regcred.example.com/role, without which the kubelet does not run"},
		"annotation not passed": {old: "Keys: [regcred.example.com/role]", new: "Keys: [other]", want: "chooses the role by the annotation regcred.example.com/role, which the kubelet does not pass"},
		"other annotation":      {args: []string{"-annotation=x=y", "-image=x"}, want: "the kubelet does not pass the annotation x"},
		"static pod":            {args: []string{"-token-file="}, want: "the kubelet does not run the program for pods without a service account"},
		"no tokens":             {old: "    tokenAttributes:\n      serviceAccountTokenAudience: vault\n      cacheType: ServiceAccount\n      requireServiceAccount: true\n      optionalServiceAccountAnnotationKeys: [regcred.example.com/role]\n", want: "no role is chosen for this pod"},
		"no images":             {old: "[ghcr.io, docker.io]", new: "[]", want: "FAIL  kubelet        matchImages is empty"},
		"image not matched":     {args: []string{"-image=quay.io/acme/app"}, want: "none of ghcr.io, docker.io matches quay.io/acme/app, so the kubelet does not run the program"},
		"image with a port":     {args: []string{"-image=ghcr.io:443/acme/app"}, want: "none of ghcr.io, docker.io matches ghcr.io:443/acme/app"},
		"scheme":                {old: "[ghcr.io,", new: "[\"https://ghcr.io\",", want: `note                 "https://ghcr.io" in matchImages never matches: write it without a scheme`},
		"tag":                   {old: "[ghcr.io,", new: "[\"ghcr.io/acme/app:1\",", want: `"ghcr.io/acme/app:1" in matchImages never matches: write it without tag and digest`},
		"Docker Hub":            {old: ", docker.io]", new: ", index.docker.io]", args: []string{"-image=nginx"}, want: `"index.docker.io" in matchImages never matches: write docker.io`},
		"program":               {args: []string{"-image-credential-provider-bin-dir=/none"}, want: "/none/regcred-credential-provider is no program that can be run: the kubelet does not start"},
		"no token":              {args: []string{"-token-file=", "-service-account=team-a/web"}, want: "kubectl -n team-a create token web --audience=vault | regcred check kubelet"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			if !strings.Contains(kubeletsFile, c.old) {
				t.Fatalf("the file has no %q", c.old)
			}
			n.write(n.file, strings.Replace(kubeletsFile, c.old, c.new, 1), 0o600)
			if out, ok := n.check(c.args...); ok || !strings.Contains(out, c.want) {
				t.Errorf("want %q, got\n%s", c.want, out)
			}
		})
	}
	for name, c := range map[string]struct {
		mode os.FileMode
		text string
		want string
	}{
		"not executable":   {0o600, "#!/bin/sh\necho v1\n", "what to do: chmod 755"},
		"others can write": {0o722, "#!/bin/sh\necho v1\n", "can be written by others"},
		"another program":  {0o700, "#!/bin/sh\nexit 1\n", "does not run, or is another program"},
	} {
		n := newNode(t)
		n.write(filepath.Join(n.binDir, Program), c.text, c.mode)
		if out, ok := n.check(); ok || !strings.Contains(out, c.want) {
			t.Errorf("%s: want %q, got\n%s", name, c.want, out)
		}
	}
	n := newNode(t)
	above := filepath.Join(n.binDir, "above")
	if err := os.MkdirAll(filepath.Join(above, "lib", "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	n.write(filepath.Join(above, "lib", "bin", Program), "#!/bin/sh\necho v1\n", 0o755)
	if err := os.Chmod(above, 0o777); err != nil {
		t.Fatal(err)
	}
	if out, ok := n.check("-image-credential-provider-bin-dir=" + filepath.Join(above, "lib", "bin")); ok || !strings.Contains(out, above+" can be written by others") {
		t.Errorf("others can replace the folder: got\n%s", out)
	}
	var out bytes.Buffer
	steps := &client.Steps{Out: &out}
	Check(t.Context(), Program, []string{"-config=" + n.file}, nil, steps)
	if !steps.Failed() || !strings.Contains(out.String(), n.file+" is the kubelet's own file") {
		t.Errorf("as -config: got\n%s", out.String())
	}
}
