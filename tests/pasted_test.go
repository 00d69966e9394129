// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// pasted is one thing that somebody typed, pasted or copied, and what comes of it:
// what is stored, with all warnings, or the whole message of a refusal.
type pasted struct {
	// name says what somebody did. Where public reports tell of it, it begins with
	// the project in which they stand.
	name string

	// write is the body of a write to path, which is a new static role if path is
	// empty. The fields in it are the bytes that Vault's command line sends: of
	// "@file", those of the file.
	write fields
	path  string

	stored   map[string]string // by key under auths: username:password
	readBack fields            // fields of the read-back of path
	warnings []string
	refused  string
}

const (
	hubKey     = "https://index.docker.io/v1/"
	storedHub  = `stored as "https://index.docker.io/v1/", under which kubelet, Docker, podman, skopeo and crane find Docker Hub`
	wantConfig = `dockerconfigjson: must be a Docker config such as {"auths":{"registry.example.com":{"auth":"…"}}}, or base64 of one; it `
	getField   = `kubectl get secret NAME -o jsonpath='{.data.\.dockerconfigjson}'`
	fromSecret = "dockerconfigjson: is more than a Docker config; its .dockerconfigjson was stored"
	kept       = ", which is kept; hardly any registry has such a "
	robotCut   = `looks like the name of a Harbor robot account whose '$' a shell has taken for a variable; put the name in single quotes, such as 'robot$ci'`
	noHelper   = "holds no password: credsStore and credHelpers name programs on the machine that the file comes from, and kubelet cannot run them; write the user name and password (or token) of each registry instead"
	wantTime   = "expires_at: must be an RFC 3339 time, such as 2027-01-31T00:00:00Z, or a date, such as 2027-01-31; leave it empty if the credential has no end"
	wantList   = `must be a list: names with commas between them, such as a,b, or JSON text such as '["a","b"]'; a shell keeps the double quotes only inside single quotes`
	wholeTime  = "must be a duration from 0 to 9223372036 seconds, without parts of a second: a number of seconds, or text such as 336h"
	roleFields = "access, allowed_bundles, connection, dockerconfigjson, email, expires_at, forget_given_up, grace_period, group, groups, hostname, max_ttl, members, mode, password, project, project_roles, projects, registry, repositories, rotation_period, scope_map, scopes, service_account, token_type, ttl, user, username, verify, verify_period, verify_repository"
	ownField   = ", and this role holds a credential of its own; did you mean "
	leaveOut   = "? Otherwise: leave the field out, or use a connection in a role of another name"
	utf16Text  = "must be UTF-8, and is UTF-16, as Windows PowerShell writes files; convert the file, such as with iconv -f UTF-16 -t UTF-8"
)

// goodAuth is base64 of robot:s3cr3t.
var goodAuth = encoded("robot:" + marker)

// goodConfig is the Docker config that most rows hold in some form.
var goodConfig = `{"auths":{"registry.example.com":{"auth":"` + goodAuth + `"}}}`

// good is what is stored of it.
var good = map[string]string{"registry.example.com": "robot:" + marker}

func encoded(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// inUTF16 returns a text as Windows PowerShell's ">" writes it.
func inUTF16(text string) string {
	out := "\xff\xfe"
	for _, unit := range utf16.Encode([]rune(text + "\r\n")) {
		out += string([]byte{byte(unit), byte(unit >> 8)})
	}
	return out
}

// wrapped returns base64 as "base64" without -w0 prints it.
func wrapped(text string) string {
	lines := slices.Collect(func(yield func(string) bool) {
		for all := encoded(text); all != "" && yield(all[:min(76, len(all))]); {
			all = all[min(76, len(all)):]
		}
	})
	return strings.Join(lines, "\n") + "\n"
}

func quoted(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return string(quoted)
}

// keyFile is the key file of a Google service account.
const keyFile = "{\n  \"type\": \"service_account\",\n  \"private_key\": \"-----BEGIN PRIVATE KEY-----\\n" + marker + "\\n-----END PRIVATE KEY-----\\n\",\n  \"client_email\": \"ci@example.com\"\n}\n"

// pastedConfigs are texts in the field dockerconfigjson.
func pastedConfigs() []pasted {
	secretYAML := "apiVersion: v1\ndata:\n  .dockerconfigjson: " + encoded(goodConfig) + "\nkind: Secret\nmetadata:\n  creationTimestamp: \"2026-01-31T00:00:00Z\"\n  name: regcred\ntype: kubernetes.io/dockerconfigjson\n"
	secretJSON := `{"apiVersion":"v1","data":{".dockerconfigjson":"` + encoded(goodConfig) + `"},"kind":"Secret","metadata":{"name":"regcred"},"type":"kubernetes.io/dockerconfigjson"}`
	session := `; the password of Docker Hub beside it may be a token that was made for this person, so write an access token that belongs to the role`
	rows := []struct {
		name, text string
		stored     map[string]string
		warnings   []string
		refused    string
	}{
		// What holds a Docker config.
		{"the file itself", goodConfig + "\n", good, nil, ""},
		{"azure-key-vault-to-kubernetes: the field of a Secret", encoded(goodConfig), good, nil, ""},
		{"base64 as it is wrapped", wrapped(goodConfig), good, nil, ""},
		{"kubernetes: kubectl get secret -o yaml", secretYAML, good, []string{fromSecret}, ""},
		{"kubectl get secret -o json", secretJSON, good, []string{fromSecret}, ""},
		{"base64 of a whole Secret", encoded(secretYAML), good, []string{fromSecret}, ""},
		{"kubectl get secret -o jsonpath={.data}", `{".dockerconfigjson":"` + encoded(goodConfig) + `"}`, good, []string{fromSecret}, ""},
		{"a Secret with stringData from a chart", "apiVersion: v1\nkind: Secret\nstringData:\n  .dockerconfigjson: |-\n    " + goodConfig + "\n", good, []string{fromSecret}, ""},
		{"one line of a Secret", "  .dockerconfigjson: " + encoded(goodConfig) + "\n", good, []string{fromSecret}, ""},
		{"vault read -format=json regcred/creds/app", `{"request_id":"x","lease_id":"","data":{".dockerconfigjson":` + quoted(goodConfig) + `,"registry":"registry.example.com"},"warnings":null}`, good, []string{fromSecret}, ""},
		{"vault kv get -format=json", `{"data":{"data":{".dockerconfigjson":` + quoted(goodConfig) + `},"metadata":{"version":1}}}`, good, []string{fromSecret}, ""},
		{"a file from Notepad, with a byte order mark", "\ufeff" + goodConfig, good, []string{"dockerconfigjson: its byte order mark was removed"}, ""},
		{"a file from Notepad, in base64", encoded("\ufeff" + goodConfig), good, []string{"dockerconfigjson: its byte order mark was removed"}, ""},
		{
			"docker/cli: docker login without a credential store",
			`{"auths":{"https://index.docker.io/v1/":{"auth":"` + goodAuth + `"},"https://index.docker.io/v1/access-token":{"auth":"` + goodAuth + `"},"https://index.docker.io/v1/refresh-token":{"auth":"` + goodAuth + `"}}}`,
			map[string]string{hubKey: "robot:" + marker},
			[]string{
				`dockerconfigjson: auths["https://index.docker.io/v1/access-token"]: left out, because docker login keeps the session of a person there` + session,
				`dockerconfigjson: auths["https://index.docker.io/v1/refresh-token"]: left out, because docker login keeps the session of a person there` + session,
			},
			"",
		},
		{
			"kestra: a helper beside a password", `{"auths":{"registry.example.com":{"username":"robot","password":"` + marker + `"}},"credHelpers":{"registry.example.com":"gcloud"}}`, good,
			[]string{`dockerconfigjson: left out, because a pull secret holds only registries with user name and password: "credHelpers"`},
			"",
		},
		{
			"docker-py: an entry with serveraddress", `{"auths":{"registry.example.com":{"username":"robot","password":"` + marker + `","email":null,"serveraddress":"registry.example.com"}}}`, good,
			[]string{`dockerconfigjson: auths["registry.example.com"]: left out, because a pull secret holds only registries with user name and password: "serveraddress"`},
			"",
		},
		{
			"flux: a key with https://", `{"auths":{"https://registry.example.com":{"auth":"` + goodAuth + `"}}}`, good,
			[]string{`dockerconfigjson: auths["https://registry.example.com"]: stored as "registry.example.com"`},
			"",
		},
		{
			"charmed-kubernetes: echo without -n", `{"auths":{"registry.example.com":{"auth":"` + encoded("robot:"+marker+"\n") + `"}}}`,
			map[string]string{"registry.example.com": "robot:" + marker + "\n"},
			[]string{`dockerconfigjson: auths["registry.example.com"].password: ends with a newline` + kept + "password"},
			"",
		},
		{
			"skopeo: a key file as the password", `{"auths":{"https://eu.gcr.io":{"email":"user@example.com","username":"_json_key","password":` + quoted(keyFile) + `}}}`,
			map[string]string{"eu.gcr.io": "_json_key:" + keyFile},
			[]string{`dockerconfigjson: auths["https://eu.gcr.io"]: stored as "eu.gcr.io"`, `dockerconfigjson: auths["https://eu.gcr.io"].password: ends with a newline` + kept + "password"},
			"",
		},
		{
			"harbor: a config that a shell has written", `{"auths":{"harbor.example.com":{"username":"robot","password":"` + marker + `"}}}`,
			map[string]string{"harbor.example.com": "robot:" + marker},
			[]string{`dockerconfigjson: auths["harbor.example.com"].username: ` + robotCut},
			"",
		},

		// What people take for one.
		{"a forgotten @", "config.json", nil, nil, wantConfig + "is the name of a file; to store what is in the file, write '@' in front of it on Vault's command line: dockerconfigjson=@config.json"},
		{"a path in JSON, with the @ of the command line", "@/home/ci/.docker/config.json", nil, nil, wantConfig + "is the name of a file; to store what is in the file, write '@' in front of it on Vault's command line: dockerconfigjson=@config.json"},
		{"jq that found nothing", "null\n", nil, nil, wantConfig + "is null, which jq and templates print where they find nothing; take the field of a Secret with " + getField},
		{"helm: a value that is not there", "<no value>", nil, nil, wantConfig + "is null, which jq and templates print where they find nothing; take the field of a Secret with " + getField},
		{"external-secrets: jq without -r", `"` + encoded(goodConfig) + `"`, nil, nil, wantConfig + "is a JSON string, in quotation marks; write it without them, as jq -r does"},
		{"a JSON string of JSON", quoted(goodConfig), nil, nil, wantConfig + "is a JSON string, in quotation marks; write it without them, as jq -r does"},
		{"cmd.exe, which keeps single quotes", "'" + goodConfig + "'", nil, nil, wantConfig + "is in quotation marks that a shell or a document has kept; write it without them, or from a file with dockerconfigjson=@config.json"},
		{"kubernetes: base64 twice", encoded(encoded(goodConfig)), nil, nil, wantConfig + "is base64 twice; decode it once, such as with base64 -d"},
		{"terraform: base64 in stringData, then in data", `{"kind":"Secret","data":{".dockerconfigjson":"` + encoded(encoded(goodConfig)) + `"}}`, nil, nil, "dockerconfigjson: .dockerconfigjson " + strings.TrimPrefix(wantConfig, "dockerconfigjson: ") + "is base64 twice; decode it once, such as with base64 -d"},
		{"kubectl get secrets -o json", `{"apiVersion":"v1","items":[` + secretJSON + `],"kind":"List"}`, nil, nil, wantConfig + "is a list of Kubernetes objects; write one Secret to each role, such as " + getField},
		{"kubectl get secrets -o yaml", "apiVersion: v1\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(secretYAML), "\n", "\n  ") + "\nkind: List\n", nil, nil, wantConfig + "is a list of Kubernetes objects; write one Secret to each role, such as " + getField},
		{"two Secrets in one file", secretYAML + "---\n" + secretYAML, nil, nil, wantConfig + "has several YAML documents; write one Secret, such as " + getField},
		{"the ExternalSecret in place of the Secret", "apiVersion: external-secrets.io/v1\nkind: ExternalSecret\nmetadata:\n  name: regcred\nspec:\n  target: {}\n", nil, nil, wantConfig + "is a Kubernetes object that holds no credential; write the Secret that belongs to it, such as " + getField},
		{"flux: a Secret of the legacy type", "apiVersion: v1\nkind: Secret\ndata:\n  .dockercfg: " + encoded(`{"registry.example.com":{"auth":"`+goodAuth+`"}}`) + "\ntype: kubernetes.io/dockercfg\n", nil, nil, wantConfig + "is a Secret without .dockerconfigjson; write one of type kubernetes.io/dockerconfigjson"},
		{"openshift: a legacy .dockercfg", `{"registry.example.com":{"auth":"` + goodAuth + `"}}`, nil, nil, `dockerconfigjson: must have a member "auths" with an entry for each registry; a legacy .dockercfg goes inside it: {"auths": …}`},
		{"skopeo: the page of a proxy", "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n", nil, nil, wantConfig + "is HTML or XML, such as the page of a proxy or of a login; write the file that you wanted to download"},
		{"kubectl's error in place of its output", `Error from server (NotFound): secrets "regcred" not found`, nil, nil, wantConfig + "is an error message; run the command that wrote it again, and store what it prints when it succeeds"},
		{"argocd-vault-plugin: a map as Go prints it", "map[auths:map[registry.example.com:map[auth:" + goodAuth + "]]]", nil, nil, wantConfig + "is a map as Go prints it; write JSON, such as with -format=json, or toJson in a template"},
		{"ansible: a dictionary as Python prints it", `{'auths': {'registry.example.com': {'auth': '` + goodAuth + `'}}}`, nil, nil, `dockerconfigjson: must be valid JSON; the error is at byte 1: JSON has its names in double quotes, such as {"auths":…}, and a shell keeps them only inside single quotes`},
		{"JSON without quotes around it in a shell", `{auths:{registry.example.com:{auth:` + goodAuth + `}}}`, nil, nil, `dockerconfigjson: must be valid JSON; the error is at byte 1: JSON has its names in double quotes, such as {"auths":…}, and a shell keeps them only inside single quotes`},
		{"a line of an environment file", "DOCKER_AUTH_CONFIG=" + goodConfig, nil, nil, wantConfig + "begins with a name and '='; write only what stands behind it"},
		{"a variable in single quotes", "$DOCKER_AUTH_CONFIG", nil, nil, wantConfig + "is a variable that nothing has filled in; put it in double quotes in a shell"},
		{"whats-up-docker: only the auth", goodAuth, nil, nil, wantConfig + "is base64 of a user name and a password, as the auth of one registry; write registry, username and password instead"},
		{"dregsy: one entry in base64", encoded(`{"username":"robot","password":"` + marker + `"}`), nil, nil, wantConfig + "is one entry without its registry; write registry, username and password instead"},
		{"kubernetes-external-secrets: a text inside value", `{"value":` + quoted(goodConfig) + `}`, nil, nil, wantConfig + `is a text inside {"value":…}; write only the text, such as with jq -r .value`},
		{"external-secrets: auths as text", `{"auths":` + quoted(`{"registry.example.com":{"auth":"`+goodAuth+`"}}`) + `}`, nil, nil, "dockerconfigjson: auths: must be a JSON object, and is text that may hold one; a template or a tool has put it into quotation marks"},
		{"kube-composer: a comma too many", `{"auths":{"registry.example.com":{"auth":"` + goodAuth + `"},}}`, nil, nil, "dockerconfigjson: must be valid JSON; the error is at byte 60"},
		{"the key of a Google service account", keyFile, nil, nil, wantConfig + "is the key of a Google service account, which is a password; write username=_json_key password=@key.json with the registry"},
		{"the answer of docker-credential-desktop", `{"ServerURL":"https://index.docker.io/v1/","Username":"robot","Secret":"` + marker + `"}`, nil, nil, wantConfig + "is the answer of a credential helper; write its Username and Secret as username and password with the registry"},
		{"PowerShell's > in Windows", inUTF16(goodConfig), nil, nil, "dockerconfigjson: " + utf16Text},
		{"a YAML of the config", "auths:\n  registry.example.com:\n    auth: " + goodAuth + "\n", nil, nil, wantConfig + "is YAML; write it as JSON, such as with yq -o json"},
		{"kind: Docker Desktop, which keeps its passwords elsewhere", `{"auths":{"https://index.docker.io/v1/":{}},"credsStore":"desktop","currentContext":"desktop-linux"}`, nil, nil, `dockerconfigjson: auths["https://index.docker.io/v1/"] ` + noHelper},
		{"docker/for-mac: credSstore", `{"credSstore":"osxkeychain","auths":{"https://registry.example.com":{}}}`, nil, nil, `dockerconfigjson: auths["registry.example.com"] ` + noHelper},
		{"docker/for-mac: only credHelpers", `{"credHelpers":{"gcr.io":"gcloud"}}`, nil, nil, "dockerconfigjson: " + noHelper},
		{"bazel: an entry without anything", `{"auths":{"registry.example.com":{}}}`, nil, nil, `dockerconfigjson: auths["registry.example.com"] has neither a user name nor a password; write both, or auth, which is base64 of username:password`},
		{"connaisseur: an auth that is not base64", `{"auths":{"registry.example.com":{"auth":"xxxxx","username":"robot"}}}`, nil, nil, `dockerconfigjson: auths["registry.example.com"].auth: must be base64 of username:password`},
		{"az acr login: an identity token", `{"auths":{"registry.example.com":{"auth":"` + encoded("00000000-0000-0000-0000-000000000000:") + `","identitytoken":"` + marker + `"}}}`, nil, nil, `dockerconfigjson: auths["registry.example.com"] holds no password that kubelet could use: it ignores identitytoken; write a user name and a password (or a token in place of the password)`},
		{"podman: one registry in two spellings", `{"auths":{"docker.io":{"auth":"` + goodAuth + `"},"https://index.docker.io/v1/":{"auth":"` + goodAuth + `"}}}`, nil, nil, `dockerconfigjson: "docker.io" and "https://index.docker.io/v1/" are the same registry "https://index.docker.io/v1/"; keep one of them`},
	}
	all := make([]pasted, len(rows))
	for i, row := range rows {
		all[i] = pasted{name: row.name, write: dockerConfig(row.text), stored: row.stored, warnings: row.warnings, refused: row.refused}
	}
	return all
}

// pastedFields are values of other fields.
func pastedFields() []pasted {
	registry := func(name, written, key string, warnings ...string) pasted {
		return pasted{name: name, write: credential(fields{"registry": written}), stored: map[string]string{key: "robot:" + marker}, warnings: warnings}
	}
	port := func(key, port string) string {
		return fmt.Sprintf("registry: %q has the port %s, and kubelet compares ports: it finds no credential for images without the port, such as registry.example.com/app; leave it out unless your images have it too", key, port)
	}
	username := func(name, written, warning string) pasted {
		row := pasted{name: name, write: credential(fields{"username": written}), stored: map[string]string{"registry.example.com": written + ":" + marker}}
		if warning != "" {
			row.warnings = []string{"username: " + warning}
		}
		return row
	}
	password := func(name, written, stored string, warnings ...string) pasted {
		return pasted{name: name, write: credential(fields{"password": written}), stored: map[string]string{"registry.example.com": "robot:" + stored}, warnings: warnings}
	}
	google := func(name, user, written, stored string, warnings ...string) pasted {
		return pasted{name: name, write: credential(fields{"registry": "europe-docker.pkg.dev", "username": user, "password": written}), stored: map[string]string{"europe-docker.pkg.dev": user + ":" + stored}, warnings: warnings}
	}
	expires := func(name, written, stored string, warnings ...string) pasted {
		return pasted{name: name, write: credential(fields{"expires_at": written}), stored: good, readBack: fields{"expires_at": stored}, warnings: warnings}
	}
	refused := func(name string, write fields, message string) pasted {
		return pasted{name: name, write: write, refused: message}
	}
	key := strings.TrimSuffix(keyFile, "\n")
	base64Key := strings.TrimSuffix(wrapped(keyFile), "\n")
	return []pasted{
		// Registries.
		registry("kpack: Docker Hub without scheme", "index.docker.io", hubKey, "registry: "+storedHub),
		registry("argocd-image-updater: the API of Docker Hub", "https://registry-1.docker.io", hubKey, "registry: "+storedHub),
		registry("dregsy: another name of Docker Hub", "registry.hub.docker.com", hubKey, "registry: "+storedHub),
		registry("the page of an image at Docker Hub", "https://hub.docker.com/r/acme/app", hubKey, "registry: "+storedHub),
		registry("weblogic-kubernetes-operator: docker.com", "docker.com", hubKey, "registry: "+storedHub),
		registry("Docker Hub with its port", "https://index.docker.io:443/v1/", hubKey, "registry: "+storedHub),
		registry("docker_auth: a URL with port and version", "https://registry.example.com:4443/v2", "registry.example.com:4443", `registry: stored as "registry.example.com:4443"`),
		registry("kubernetes: the port of https", "registry.example.com:443", "registry.example.com:443", port("registry.example.com:443", "443")),
		registry("the port of http", "registry.example.com:80", "registry.example.com:80", port("registry.example.com:80", "80")),
		registry("registry=@registry.txt", "registry.example.com\n", "registry.example.com", `registry: stored as "registry.example.com"`),
		registry("registry=@registry.txt from Windows", "\ufeffregistry.example.com\r\n", "registry.example.com", `registry: stored as "registry.example.com"`, "registry: its byte order mark was removed"),
		registry("flux: a path of Nexus", "registry.example.com:8083/repository/internal", "registry.example.com:8083/repository/internal",
			`registry: "registry.example.com:8083/repository/internal" is limited to a path: kubelet matches it as a plain string prefix (repository/internal-other too), podman and skopeo path by path, and Docker takes the credential for the whole host registry.example.com:8083`),
		registry("every host, and a path", "*/team", "*/team",
			`registry: "*/team" has a '*', which only kubelet matches (one '*' never reaches over a '.', with the path as a plain string prefix (team-other too)): it sends the credential to every such host that an image names; Docker, podman, skopeo and crane find none under it`),
		refused("a session of docker login", credential(fields{"registry": "https://index.docker.io/v1/access-token"}), "registry: must not be the place where docker login keeps the session of a person; give docker.io for Docker Hub"),
		refused("flux: the URL of a chart", credential(fields{"registry": "oci://ghcr.io/acme/app"}), "registry: must have no scheme other than https:// or http://; give only the registry, such as registry.example.com"),
		refused("an image", credential(fields{"registry": "ghcr.io/acme/app:1.4"}), "registry: must be a registry, not an image: leave out the tag"),
		refused("a registry in two lines", credential(fields{"registry": "ghcr.io\nquay.io\n"}), "registry: must not contain white space or control characters, except one newline at the end of a file"),
		{
			name: "localhost and 127.0.0.1 are two hosts", path: "regcred/roles/local", write: fields{"registry": "127.0.0.1:5000"},
			refused: "registry: names a new host; write password in the same request, because a stored password is only used for the host it was written for",
		},

		// User names.
		username("harbor: a robot in single quotes", "robot$ci", ""),
		username("harbor: a robot of a project in double quotes", "robot+ci", robotCut),
		username("jenkins: a robot with its $ doubled", "robot$$ci", "has a '$' with an escape, which is kept; a Harbor robot account has one '$', such as robot$ci"),
		username("harbor: a robot with an escape in single quotes", `robot\$ci`, "has a '$' with an escape, which is kept; a Harbor robot account has one '$', such as robot$ci"),
		username("flux: the token of ECR", "AWS", "AWS is the user name of a token of Amazon ECR, which ends 12 hours after it was made; write expires_at, or use a connection of type ecr, which makes new tokens"),
		username("oras: an access token of Google", "oauth2accesstoken", "oauth2accesstoken is the user name of a Google access token, which ends after an hour; write expires_at, or the key of a service account with the user name _json_key"),
		username("gitlab: the token of a CI job", "gitlab-ci-token", "gitlab-ci-token is the user name of a CI job's token, which ends with the job; write expires_at, or use a deploy token or a connection of type gitlab, which makes them"),
		username("az acr login --expose-token", "00000000-0000-0000-0000-000000000000", "this is the user name of a token of Azure, which ends after some hours; write expires_at, or the name and password of a repository-scoped token or a service principal"),
		username("a space from a table", "robot ", "ends with white space"+kept+"user name"),
		{
			name: "a byte order mark before a user name", write: credential(fields{"username": "\ufeffrobot"}), stored: good,
			warnings: []string{"username: its byte order mark was removed"},
		},
		refused("skopeo: the service account of OpenShift", credential(fields{"username": "system:serviceaccount:mini:jenkins"}), "username: must not contain ':': every tool takes what follows it as the password"),
		refused("NGC's $oauthtoken in double quotes", credential(fields{"username": ""}), "username: must not be empty: Docker cannot load an entry without a user name; where the registry takes any name with a token, write one such as token; put a name with '$' in single quotes, such as '$oauthtoken', or a shell takes it for a variable"),

		// Passwords.
		password("docker/docs: echo without -n", marker+"\n", marker, "password: its trailing newline was removed"),
		password("azuredevopslabs: a byte order mark", "\ufeff"+marker, marker, "password: its byte order mark was removed"),
		password("a space from a chat", marker+" ", marker+" ", "password: ends with white space"+kept+"password"),
		password("a line end of Windows without its newline", marker+"\r", marker+"\r", "password: ends with a carriage return"+kept+"password"),
		password("two empty lines", marker+"\n\n", marker+"\n", "password: its trailing newline was removed", "password: ends with a newline"+kept+"password"),
		password("openwhisk: quotation marks in a template", `"`+marker+`"`, `"`+marker+`"`, "password: is in quotation marks, which are kept; if a file or a command line has added them, write it without them"),
		password("vault-crd: every special character", "s%*nY*,>E8vT6.+hC_Aw^Yb'i,&<]}m>X[3oDh9\\", "s%*nY*,>E8vT6.+hC_Aw^Yb'i,&<]}m>X[3oDh9\\"),
		password("jq that found nothing", "null", "null", "password: looks like what jq and templates print where they find nothing"),
		password("a masked variable of a CI log", "[MASKED]", "[MASKED]", "password: looks like a text that hides a secret"),
		password("a variable in single quotes", "${TOKEN}", "${TOKEN}", "password: looks like a variable that nothing has filled in"),
		password("a forgotten @", "/run/secrets/token", "/run/secrets/token", "password: looks like the name of a file; Vault's command line reads a file only if '@' stands in front of its name"),
		refused("vivaria: PowerShell's > in Windows", credential(fields{"password": inUTF16(marker)}), "password: "+utf16Text),
		google("password=@key.json", "_json_key", keyFile, key, "password: its trailing newline was removed"),
		google("caprover: a wrapped base64 key", "_json_key_base64", wrapped(keyFile), base64Key, "password: its trailing newline was removed", "password: is base64 in several lines, which are kept; registries take it in one line, as base64 -w0 writes it"),
		google("wave: the key in place of its base64", "_json_key_base64", key, key, "password: is JSON; with the user name _json_key_base64, Google's registries expect base64 of the key file"),
		google("the base64 of the key in place of it", "_json_key", encoded(keyFile), encoded(keyFile), "password: is not JSON; with the user name _json_key, Google's registries expect the whole key file, such as password=@key.json"),

		// Times.
		expires("a date of a form", "2126-12-31", "2126-12-31T23:59:59Z", "expires_at: stored as 2126-12-31T23:59:59Z"),
		expires("RFC 3339 in lower case", "2126-12-31t23:59:59z", "2126-12-31T23:59:59Z"),
		expires("the time of Harbor, with milliseconds", "2126-12-31T23:59:59.123Z", "2126-12-31T23:59:59Z", "expires_at: stored as 2126-12-31T23:59:59Z"),
		expires("a leap second", "2126-12-31T23:59:60Z", "2127-01-01T00:00:00Z", "expires_at: stored as 2127-01-01T00:00:00Z"),
		refused("Go's zero time", credential(fields{"expires_at": "0001-01-01T00:00:00Z"}), wantTime),
		refused("a comma in a time", credential(fields{"expires_at": "2126-12-31T23:59:59,5Z"}), wantTime),
		refused("Harbor's -1 for never", credential(fields{"expires_at": "-1"}), wantTime),

		// Names of fields, and whole objects in place of fields.
		refused("user=", fields{"registry": "ghcr.io", "user": "robot", "password": marker}, "user: is a field of roles on a connection of type gitea"+ownField+"username"+leaveOut),
		refused("ttl= of a static role", credential(fields{"ttl": "1h"}), "ttl: is a field of roles on a connection"+ownField+"expires_at"+leaveOut),
		refused("a misspelt field", credential(fields{"pasword": marker}), `unknown field "pasword"; did you mean password? The fields are: `+roleFields),
		refused("the flags of kubectl create secret docker-registry", fields{"docker-server": "ghcr.io", "docker-username": "robot", "docker-password": marker},
			`unknown field "docker-password", "docker-server", "docker-username"; did you mean password, registry and username? The fields are: `+roleFields),
		refused("a Docker config, piped into the role", fields{"auths": fields{"ghcr.io": fields{"auth": goodAuth}}}, `unknown field "auths"; did you mean dockerconfigjson? The fields are: `+roleFields),
		refused("vault-secrets-operator: a secret of KV with .dockerconfigjson, piped into the role", fields{".dockerconfigjson": goodConfig}, `unknown field ".dockerconfigjson"; did you mean dockerconfigjson? The fields are: `+roleFields),
		refused("vault kv get -format=json without -field=data, piped into the role", fields{"request_id": "x", "lease_id": "", "lease_duration": 0, "renewable": false, "data": fields{"data": credential(nil)}, "warnings": nil},
			`unknown field "data", "lease_duration", "lease_id", "renewable", "request_id", and 1 more; this is a whole answer of Vault: read it with -format=json -field=data. The fields are: `+roleFields),
		refused("vault kv get -format=json, and jq .data, piped into the role", fields{"data": credential(nil), "metadata": fields{"version": 1}},
			`unknown field "data", "metadata"; this is a secret of KV version 2 with its versions: read it with vault kv get -format=json -field=data. The fields are: `+roleFields),
		refused("kubectl get secret -o json, piped into the role", fields{"apiVersion": "v1", "kind": "Secret", "data": fields{".dockerconfigjson": encoded(goodConfig)}, "type": "kubernetes.io/dockerconfigjson"},
			`unknown field "apiVersion", "data", "kind", "type"; this is an object of Kubernetes: pipe a Secret into one field, dockerconfigjson=-. The fields are: `+roleFields),

		// Lists.
		{name: "a list as JSON", path: "regcred/config", write: fields{"allowed_registries": `["*.example.com","[::1]:5000"]`}, readBack: fields{"allowed_registries": []any{"*.example.com", "[::1]:5000"}}},
		{name: "no more limits", path: "regcred/config", write: fields{"allowed_registries": `[]`}, readBack: fields{"allowed_registries": []any{}}},
		{name: "a list that a shell has stripped", path: "regcred/config", write: fields{"allowed_registries": `[a.example.com,b.example.com]`}, refused: "allowed_registries: " + wantList},
		{name: "a list as vault read prints it", path: "regcred/config", write: fields{"allowed_registries": `[a.example.com b.example.com]`}, refused: "allowed_registries: " + wantList},
		{name: "members as JSON", path: "regcred/roles/bundle", write: fields{"members": `["local","member"]`}, readBack: fields{"members": []any{"local", "member"}}},
		{name: "globs as JSON", path: "regcred/roles/local", write: fields{"allowed_bundles": `["bundle","team-*"]`}, readBack: fields{"allowed_bundles": []any{"bundle", "team-*"}}},
		{name: "roles of a connection as JSON", path: "regcred/connections/lab", write: fields{"allowed_roles": `["*"]`}, readBack: fields{"allowed_roles": []any{"*"}}},

		// Durations.
		{name: "an empty max_ttl", path: "regcred/roles/leased", write: fields{"max_ttl": ""}, readBack: fields{"max_ttl": json.Number("0")}},
		{name: "an empty rotation_period", path: "regcred/roles/shared", write: fields{"rotation_period": ""}, readBack: fields{"rotation_period": json.Number("86400")}},
		{name: "days", path: "regcred/config", write: fields{"expiry_warning": "30d"}, readBack: fields{"expiry_warning": json.Number("2592000")}},
		{name: "half an hour", path: "regcred/config", write: fields{"expiry_warning": "0.5h"}, readBack: fields{"expiry_warning": json.Number("1800")}},
		{name: "an empty expiry_warning", path: "regcred/config", write: fields{"expiry_warning": ""}, readBack: fields{"expiry_warning": json.Number("1209600")}},
		{name: "a number with a part", path: "regcred/roles/leased", write: fields{"ttl": 1.5}, refused: "ttl: " + wholeTime},
		{name: "a millisecond", path: "regcred/roles/leased", write: fields{"ttl": "1ms"}, refused: "ttl: " + wholeTime},
		{name: "a part of a second", path: "regcred/roles/leased", write: fields{"ttl": "5.9s"}, refused: "ttl: " + wholeTime},
		{name: "three hundred years", path: "regcred/roles/leased", write: fields{"ttl": "2629800h"}, refused: "ttl: " + wholeTime},
		{name: "a duration that has passed", path: "regcred/roles/leased", write: fields{"ttl": "-1h"}, refused: "ttl: " + wholeTime},
	}
}

// TestPastedInput has what people type, paste and copy, from public reports and from
// those who have tried the engine.
func TestPastedInput(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	lab := gitlabtest.New(t)
	connect(t, v.Client, "regcred/connections/lab", "gitlab", lab.Connection(), fields{"allowed_roles": "*"})
	write(t, v.Client, "regcred/roles/leased", fields{"connection": "lab", "project": "group/app", "mode": "leased", "ttl": "1h", "max_ttl": "2h"})
	write(t, v.Client, "regcred/roles/shared", fields{"connection": "lab", "project": "group/app", "rotation_period": "12h"})
	write(t, v.Client, "regcred/roles/local", credential(fields{"registry": "localhost:5000", "allowed_bundles": "bundle"}))
	write(t, v.Client, "regcred/roles/member", credential(fields{"registry": "member.example.com", "allowed_bundles": "bundle"}))

	rows := append(pastedConfigs(), pastedFields()...)
	if len(rows) < 60 {
		t.Errorf("want at least 60 rows, got %d", len(rows))
	}
	for i, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			path := row.path
			if path == "" {
				path = fmt.Sprintf("regcred/roles/pasted_%d", i)
			}
			secret, err := v.Client.Logical().Write(path, row.write)
			if got := messageOf(err); got != row.refused {
				t.Fatalf("refusal (-want +got):\n%s", cmp.Diff(row.refused, got))
			}
			if row.refused != "" {
				return
			}
			var warnings []string
			if secret != nil {
				warnings = secret.Warnings
			}
			if diff := cmp.Diff(row.warnings, warnings, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if row.stored != nil {
				if diff := cmp.Diff(row.stored, credentialsOf(t, v.Client, strings.Replace(path, "/roles/", "/creds/", 1))); diff != "" {
					t.Errorf("credentials (-want +got):\n%s", diff)
				}
			}
			data := read(t, v.Client, path)
			maps.DeleteFunc(data, func(field string, _ any) bool { _, wanted := row.readBack[field]; return !wanted })
			if diff := cmp.Diff(row.readBack, data, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("read-back (-want +got):\n%s", diff)
			}
		})
	}
	if strings.Contains(v.Log(), marker) {
		t.Error("Vault's log at level trace holds a secret")
	}
}

// messageOf returns the whole message of a refusal with status 400.
func messageOf(err error) string {
	var response *api.ResponseError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &response) && response.StatusCode == http.StatusBadRequest:
		return strings.Join(response.Errors, "\n")
	}
	return err.Error()
}

// credentialsOf returns username:password by key of a pull secret.
func credentialsOf(t *testing.T, client *api.Client, path string) map[string]string {
	t.Helper()
	var config struct {
		Auths map[string]struct{ Username, Password, Auth string }
	}
	if err := json.Unmarshal([]byte(read(t, client, path)[".dockerconfigjson"].(string)), &config); err != nil {
		t.Fatal(err)
	}
	credentials := map[string]string{}
	for key, entry := range config.Auths {
		credentials[key] = entry.Username + ":" + entry.Password
		if want := encoded(credentials[key]); entry.Auth != want {
			t.Errorf("%s: want auth %q, got %q", key, want, entry.Auth)
		}
	}
	return credentials
}

// TestVaultCountsATextWithItsEscapes is the limit of 1 MiB that docs/api.md tells of.
func TestVaultCountsATextWithItsEscapes(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	for body, status := range map[string]int{
		`{"registry":"ghcr.io","username":"robot","password":"` + strings.Repeat(`\u00e9`, 100_000) + `"}`: http.StatusNoContent,
		`{"registry":"ghcr.io","username":"robot","password":"` + strings.Repeat(`é`, 200_000) + `"}`:      http.StatusNoContent,
		`{"registry":"ghcr.io","username":"robot","password":"` + strings.Repeat(`\u00e9`, 200_000) + `"}`: http.StatusInternalServerError,
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, v.Addr+"/v1/regcred/roles/long", bytes.NewReader([]byte(body)))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Vault-Token", v.Token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != status {
			t.Errorf("%d bytes, as %.60s…: want status %d, got %d", len(body), body, status, response.StatusCode)
		}
	}
}
