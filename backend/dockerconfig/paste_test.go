// SPDX-License-Identifier: MPL-2.0

package dockerconfig_test

import (
	"fmt"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

const ofSecret = "is more than a Docker config; its .dockerconfigjson was stored"

func TestParseTakesASecret(t *testing.T) {
	var (
		simple  = entryOf(`"auth":"` + userAuth + `"`)
		encoded = encode64(simple)
		inJSON  = `{"apiVersion":"v1","kind":"Secret","type":"kubernetes.io/dockerconfigjson","metadata":{"name":"regcred","annotations":{"a":"b"}},"data":{".dockerconfigjson":"` + encoded + `"}}`
	)
	for name, input := range map[string]string{
		"JSON":                 inJSON,
		"JSON, in base64":      encode64(inJSON),
		"data only":            `{".dockerconfigjson":"` + encoded + `"}`,
		"an answer of Vault":   `{"request_id":"x","data":{".dockerconfigjson":` + quote(simple) + `,"dockerconfigjson":"` + encoded + `"}}`,
		"an answer of KV 2":    `{"data":{"data":{".dockerconfigjson":` + quote(simple) + `},"metadata":{"version":1}}}`,
		"stringData":           `{"kind":"Secret","stringData":{".dockerconfigjson":` + quote(simple) + `}}`,
		"both, as Kubernetes":  `{"kind":"Secret","data":{".dockerconfigjson":"e30="},"stringData":{".dockerconfigjson":` + quote(simple) + `}}`,
		"YAML":                 "apiVersion: v1\ndata:\n  .dockerconfigjson: " + encoded + "\nkind: Secret\nmetadata:\n  name: regcred\ntype: kubernetes.io/dockerconfigjson\n",
		"YAML, in base64":      encode64("kind: Secret\ndata:\n  .dockerconfigjson: " + encoded + "\n"),
		"YAML from Windows":    "\ufeffkind: Secret\r\ndata:\r\n  .dockerconfigjson: " + encoded + "\r\n",
		"YAML after a marker":  "---\nkind: Secret\ndata:\n  \".dockerconfigjson\": '" + encoded + "'\n",
		"YAML in lines":        "kind: Secret\ndata:\n  .dockerconfigjson: |\n    " + encoded[:40] + "\n    " + encoded[40:] + "\n",
		"YAML, folded":         "kind: Secret\ndata:\n  .dockerconfigjson: >-\n    " + encoded + "\n",
		"YAML with binary":     "kind: Secret\ndata:\n  .dockerconfigjson: !!binary " + encoded + "\n",
		"YAML with stringData": "kind: Secret\nstringData:\n  .dockerconfigjson: |\n    " + simple + "\n",
		"one line of YAML":     ".dockerconfigjson: " + encoded,
	} {
		t.Run(name, func(t *testing.T) {
			config, warnings, err := dockerconfig.Parse(input)
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			wantEqual(t, "credentials", []plain{{"registry.example.com", "user", marker, ""}}, plainOf(config))
			want := []string{ofSecret}
			if strings.Contains(name, "Windows") {
				want = []string{markRemoved, ofSecret}
			}
			wantWarnings(t, want, warnings)
		})
	}
}

// TestParseNamesWhatPeoplePaste has what stands in the field by mistake.
func TestParseNamesWhatPeoplePaste(t *testing.T) {
	var (
		simple  = entryOf(`"auth":"` + userAuth + `"`)
		encoded = encode64(simple)
		kubectl = "kubectl get secret NAME -o jsonpath='{.data.\\.dockerconfigjson}'"

		null    = refusal{"it is null", kubectl}
		file    = refusal{"it is the name of a file", "dockerconfigjson=@config.json"}
		list    = refusal{"it is a list of Kubernetes objects", kubectl}
		quoted  = refusal{"it is in quotation marks", "write it without them"}
		object  = refusal{"it is a Kubernetes object that holds no credential", kubectl}
		failure = refusal{"it is an error message", "run the command that wrote it again"}
		oneAuth = refusal{"it is base64 of a user name and a password", "write registry, username and password"}
		noField = refusal{"it is a Secret without .dockerconfigjson", "of type kubernetes.io/dockerconfigjson"}
		names   = refusal{"must be valid JSON", "JSON has its names in double quotes"}
		single  = refusal{"it is one entry without its registry", "write registry, username and password"}
		unset   = refusal{"it is a variable that nothing has filled in", "double quotes"}
	)
	for _, row := range []struct {
		name, input string
		refusal
	}{
		{"null of jq", "null\n", null},
		{"nothing of a template", "<no value>", null},
		{"nothing of Go", "<nil>", null},
		{"a JSON string", `"` + encoded + `"`, refusal{"it is a JSON string", "jq -r"}},
		{"JSON as a JSON string", quote(simple), refusal{"it is a JSON string", "jq -r"}},
		{"single quotes of cmd.exe", "'" + simple + "'", quoted},
		{"quotes of a document", "“" + simple + "”", quoted},
		{"an array", `["` + marker + `"]`, refusal{"it is a list", "jq '.[0]'"}},
		{"a map of Go", "map[auths:map[ghcr.io:map[auth:" + userAuth + "]]]", refusal{"it is a map as Go prints it", "-format=json"}},
		{"HTML", "<!DOCTYPE html>\n<html><body>Sign in: " + marker + "</body></html>", refusal{"it is HTML or XML", "the file that you wanted to download"}},
		{"kubectl's error", `Error from server (NotFound): secrets "regcred" not found`, failure},
		{"the shell's error", "error: You must be logged in to the server", failure},
		{"base64 twice", encode64(encoded), refusal{"it is base64 twice", "base64 -d"}},
		{"a Secret with base64 twice", `{"kind":"Secret","data":{".dockerconfigjson":"` + encode64(encoded) + `"}}`, refusal{".dockerconfigjson must be a Docker config", "base64 -d"}},
		{"an auth", userAuth, oneAuth},
		{"one line of an environment file", "DOCKER_AUTH_CONFIG=" + simple, refusal{"it begins with a name and '='", "write only what stands behind it"}},
		{"export of a shell", "export REGCRED=" + encoded, refusal{"it begins with a name and '='", "write only what stands behind it"}},
		{"a variable", "${DOCKER_CONFIG}", unset},
		{"a command", "$(cat config.json)", unset},
		{"a certificate", "-----BEGIN CERTIFICATE-----\n" + marker, refusal{"it is a key or a certificate", "write the Docker config"}},

		{"a file", "config.json", file},
		{"a file in a folder", "~/.docker/config.json", file},
		{"a file with all folders", "/home/ci/.docker/config.json", file},
		{"a file without an extension", "/run/containers/0/auth", file},
		{"a file of Windows", `C:\Users\ci\.docker\config.json`, file},
		{"a file with @", "@config.json", file},
		{"a URL of a file", "file:///etc/docker/config.json", file},
		{"a legacy file", "~/.dockercfg", file},

		{"a List in JSON", `{"apiVersion":"v1","kind":"List","items":[{"kind":"Secret","data":{".dockerconfigjson":"` + encoded + `"}}]}`, list},
		{"a SecretList", `{"kind":"SecretList","items":[]}`, list},
		{"a List in YAML", "apiVersion: v1\nitems:\n- kind: Secret\n  data:\n    .dockerconfigjson: " + encoded + "\nkind: List\n", list},
		{"two documents", "kind: Secret\ndata:\n  .dockerconfigjson: " + encoded + "\n---\nkind: Secret\n", refusal{"it has several YAML documents", kubectl}},
		{"an ExternalSecret", "apiVersion: external-secrets.io/v1\nkind: ExternalSecret\nspec: {}\n", object},
		{"a ServiceAccount", `{"kind":"ServiceAccount","imagePullSecrets":[{"name":"regcred"}]}`, object},
		{"a Secret of another type", `{"kind":"Secret","data":{"password":"` + encode64(marker) + `"}}`, noField},
		{"a legacy Secret", "kind: Secret\ntype: kubernetes.io/dockercfg\ndata:\n  .dockercfg: " + encoded + "\n", noField},
		{"YAML", "auths:\n  ghcr.io:\n    auth: " + userAuth + "\n", refusal{"it is YAML", "yq -o json"}},
		{"broken YAML", "kind: Secret\n\t: " + marker, refusal{"no valid YAML", "must be a Docker config"}},
		{"YAML without a mapping", "---\n" + marker, refusal{"must be a JSON object", "must"}},
		{"a YAML field twice", "kind: Secret\ndata:\n  .dockerconfigjson: a\n  .dockerconfigjson: " + encoded, refusal{"data: must have each name only once", "repeats an earlier name"}},

		{"Python", `{'auths': {'ghcr.io': {'auth': '` + userAuth + `'}}}`, names},
		{"what a shell leaves", `{auths:{ghcr.io:{auth:` + userAuth + `}}}`, names},
		{"escaped quotes", `{\"auths\":{}}`, names},
		{"a Google key", jsonKey, refusal{"it is the key of a Google service account", "username=_json_key password=@key.json"}},
		{"an answer of a helper", `{"ServerURL":"https://ghcr.io","Username":"user","Secret":"` + marker + `"}`, refusal{"it is the answer of a credential helper", "username and password"}},
		{"an entry", `{"auth":"` + userAuth + `"}`, single},
		{"an entry with a password", `{"username":"user","password":"` + marker + `","email":""}`, single},
		{"a text inside value", `{"value":` + quote(simple) + `}`, refusal{`it is a text inside {"value":…}`, "jq -r .value"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			config, warnings, err := dockerconfig.Parse(row.input)
			row.check(t, err)
			if len(config.Credentials()) != 0 || warnings != nil {
				t.Errorf("with the error came %d credentials and warnings %q; want neither", len(config.Credentials()), warnings)
			}
		})
	}
}

// A reader of YAML that followed each alias would not end.
func TestParseReadsYAMLOfAnyShapeWithoutHarm(t *testing.T) {
	bomb := "a: &a [x, x]\n"
	for i := 'b'; i < 'z'; i++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", i, i, strings.Repeat(fmt.Sprintf("*%c,", i-1), 20))
	}
	for name, input := range map[string]string{
		"aliases": bomb,
		"depth":   "a: " + strings.Repeat("{a: ", 9000) + strings.Repeat("x", 500_000) + strings.Repeat("}", 9000),
		"deeper":  "a: " + strings.Repeat("[", 200_000),
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := dockerconfig.Parse(input)
			refusal{"must be", "must be"}.check(t, err)
		})
	}
}
