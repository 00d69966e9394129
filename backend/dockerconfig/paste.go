// SPDX-License-Identifier: MPL-2.0

package dockerconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

const (
	wantConfig = `must be a Docker config such as {"auths":{"registry.example.com":{"auth":"…"}}}, or base64 of one`

	// dockerConfigField is the field of a Kubernetes Secret that holds a Docker config.
	dockerConfigField = ".dockerconfigjson"

	kubectlGet = `kubectl get secret NAME -o jsonpath='{.data.\.dockerconfigjson}'`
)

// notConfig is the error for a text that is something else than a Docker config. is
// continues "it is" and says what would be right.
func notConfig(is string) error { return errors.New(wantConfig + "; it " + is) }

// unpack returns the members of the Docker config that a pasted text holds: JSON, base64
// of it, or a Kubernetes Secret as JSON or YAML. For what people paste by mistake, the
// error says what it is, and which command would be right.
func unpack(input string) ([]member, []string, error) {
	object, inYAML, warnings, err := open(input)
	if err != nil {
		return nil, nil, err
	}
	inner, isSecret, err := secretIn(object)
	switch {
	case err != nil:
		return nil, nil, err
	case isSecret:
		var more []string
		if object, inYAML, more, err = open(inner); err != nil {
			return nil, nil, fmt.Errorf("%s %w", dockerConfigField, err)
		}
		warnings = append(append(warnings, "is more than a Docker config; its "+dockerConfigField+" was stored"), more...)
	}
	if inYAML {
		return nil, nil, notConfig("is YAML; write it as JSON, such as with yq -o json")
	}
	return object, warnings, nil
}

// open returns the members of the JSON object or YAML mapping in a text, which may be in
// base64.
func open(input string) (object []member, inYAML bool, warnings []string, err error) {
	text, warnings, err := openText(input)
	if err != nil {
		return nil, false, nil, err
	}
	asJSON := text
	if inYAML = isYAML(text); inYAML {
		if asJSON, err = yamlToJSON(text); err != nil {
			return nil, false, nil, err
		}
	}
	object, err = members([]byte(asJSON))
	if err != nil && unquotedNames.MatchString(text) {
		err = fmt.Errorf(`%w: JSON has its names in double quotes, such as {"auths":…}, and a shell keeps them only inside single quotes`, err)
	}
	return object, inYAML, warnings, err
}

// unquotedNames matches how Python prints an object, and what a shell leaves of JSON.
var unquotedNames = regexp.MustCompile(`^\{\s*('|u'|[A-Za-z.]|\\")`)

// openText returns a text without white space around it, decoded if it is base64.
func openText(input string) (text string, warnings []string, err error) {
	text, warnings, err = tidyConfig(input)
	if err != nil || strings.HasPrefix(text, "{") {
		return text, warnings, err
	}
	if is := nameOf(text); is != "" {
		return "", nil, notConfig(is)
	}
	if isYAML(text) {
		return text, warnings, nil
	}
	decoded, err := decodeBase64(text)
	if err != nil {
		return "", nil, notConfig("is neither JSON nor base64")
	}
	text, more, err := tidyConfig(string(decoded))
	if err != nil {
		return "", nil, fmt.Errorf("%w, in base64", err)
	}
	if strings.HasPrefix(text, "{") || isYAML(text) && nameOf(text) == "" {
		return text, append(warnings, more...), nil
	}
	switch again, err := decodeBase64(text); {
	case err == nil && strings.HasPrefix(strings.TrimSpace(string(again)), "{"):
		return "", nil, notConfig("is base64 twice; decode it once, such as with base64 -d")
	case isAuth(text):
		return "", nil, notConfig("is base64 of a user name and a password, as the auth of one registry; write registry, username and password instead")
	}
	return "", nil, notConfig("is base64 of something else")
}

// tidyConfig removes what stands around a Docker config.
func tidyConfig(input string) (text string, warnings []string, err error) {
	text, warnings, err = Tidy(input)
	text = strings.TrimSpace(text)
	switch {
	case err != nil:
		return "", nil, err
	case text == "":
		return "", nil, notConfig("is empty")
	case strings.HasPrefix(text, "{") && !utf8.ValidString(text):
		return "", nil, notConfig("is not UTF-8")
	}
	return text, warnings, nil
}

// isAuth reports whether a text looks like username:password.
func isAuth(text string) bool {
	user, password, found := strings.Cut(text, ":")
	return found && user != "" && password != "" && checkText(text) == nil && !strings.ContainsAny(text, " \r\n\x00")
}

// mistakes are what people paste in place of a Docker config, by how it begins or by
// what the whole text is. What they are continues "it".
var mistakes = []struct {
	text *regexp.Regexp
	is   string
}{
	{regexp.MustCompile(`^(null|undefined|None|nil|<nil>|<none>|<no value>|"null")$`), "is null, which jq and templates print where they find nothing; take the field of a Secret with " + kubectlGet},
	{regexp.MustCompile(`^"`), "is a JSON string, in quotation marks; write it without them, as jq -r does"},
	{regexp.MustCompile(`^['‘’“”` + "`" + `]`), "is in quotation marks that a shell or a document has kept; write it without them, or from a file with dockerconfigjson=@config.json"},
	{regexp.MustCompile(`^\[`), "is a list; write one Docker config, such as with jq '.[0]'"},
	{regexp.MustCompile(`^map\[`), "is a map as Go prints it; write JSON, such as with -format=json, or toJson in a template"},
	{regexp.MustCompile(`^<`), "is HTML or XML, such as the page of a proxy or of a login; write the file that you wanted to download"},
	{regexp.MustCompile(`(?i)^(error|warning|usage|panic|fatal|unable to|cannot|could not|failed|permission denied|no such file|command not found|an error occurred)\b[^{]*$`), "is an error message; run the command that wrote it again, and store what it prints when it succeeds"},
	{regexp.MustCompile(`^(\$\{?[A-Za-z_]\w*\}?|\$\(.*\)|%[A-Za-z_]\w*%)$`), "is a variable that nothing has filled in; put it in double quotes in a shell"},
	{regexp.MustCompile(`^-----BEGIN `), "is a key or a certificate; write the Docker config, or registry, username and password"},
	{regexp.MustCompile(`^(export\s+)?[A-Za-z_][A-Za-z0-9_]*=.*[{e]`), "begins with a name and '='; write only what stands behind it"},
	{filePath, "is the name of a file; to store what is in the file, write '@' in front of it on Vault's command line: dockerconfigjson=@config.json"},
}

// nameOf says what a text is that is neither a JSON object nor base64. It returns "" if
// it does not know.
func nameOf(text string) string {
	for _, m := range mistakes {
		if m.text.MatchString(text) {
			return m.is
		}
	}
	return ""
}

// secretIn returns the Docker config in a Kubernetes Secret, in its data, or in an answer
// of Vault that holds it, and whether the object is one of these. It refuses other
// objects that people take for a Docker config.
func secretIn(object []member) (inner string, isSecret bool, err error) {
	if _, found := find(object, "auths"); found {
		return "", false, nil
	}
	kind, hasKind := textIn(object, "kind")
	if _, list := find(object, "items"); list || strings.HasSuffix(kind, "List") {
		return "", false, notConfig("is a list of Kubernetes objects; write one Secret to each role, such as " + kubectlGet)
	}
	if hasKind && kind != "Secret" {
		return "", false, notConfig("is a Kubernetes object that holds no credential; write the Secret that belongs to it, such as " + kubectlGet)
	}
	for holders, depth := [][]member{object}, 0; len(holders) > 0 && depth < 3; depth++ {
		var below [][]member
		for _, holder := range holders {
			if text, found := textIn(holder, dockerConfigField); found {
				return text, true, nil
			}
			for _, name := range []string{"stringData", "data"} {
				if value, found := find(holder, name); found && bytes.HasPrefix(value, []byte("{")) {
					inside, err := members(value)
					if err != nil {
						return "", false, fmt.Errorf("%s: %w", name, err)
					}
					below = append(below, inside)
				}
			}
		}
		holders = below
	}
	if kind == "Secret" {
		return "", false, notConfig("is a Secret without " + dockerConfigField + "; write one of type kubernetes.io/dockerconfigjson")
	}
	return "", false, otherObject(object)
}

// otherObject returns the error for an object that is known, and no Docker config.
func otherObject(object []member) error {
	has := func(names ...string) bool {
		for _, name := range names {
			if _, found := textIn(object, name); !found {
				return false
			}
		}
		return true
	}
	kind, _ := textIn(object, "type")
	switch {
	case kind == "service_account" || has("private_key", "client_email"):
		return notConfig("is the key of a Google service account, which is a password; write username=_json_key password=@key.json with the registry")
	case has("Username", "Secret"):
		return notConfig("is the answer of a credential helper; write its Username and Secret as username and password with the registry")
	case has("auth"), has("username", "password"):
		return notConfig("is one entry without its registry; write registry, username and password instead")
	case len(object) == 1 && has("value"):
		return notConfig("is a text inside {\"value\":…}; write only the text, such as with jq -r .value")
	}
	return nil
}

// textIn returns a member that is a JSON string.
func textIn(object []member, name string) (text string, found bool) {
	value, found := find(object, name)
	return text, found && bytes.HasPrefix(value, []byte(`"`)) && json.Unmarshal(value, &text) == nil
}

// yamlKey matches a line that begins a member of a YAML mapping.
var yamlKey = regexp.MustCompile(`(?m)^(---|[A-Za-z.][\w./-]*:)(\s|$)`)

// isYAML reports whether a text looks like a YAML mapping, and is no JSON.
func isYAML(text string) bool {
	return !strings.HasPrefix(text, "{") && yamlKey.MatchString(text)
}

// yamlToJSON converts a YAML document. Every scalar becomes a string of its text as
// it is written, so that no value changes with a type that YAML gives it.
func yamlToJSON(text string) (string, error) {
	documents := yaml.NewDecoder(strings.NewReader(text))
	var document, next yaml.Node
	if err := documents.Decode(&document); err != nil || len(document.Content) == 0 { // err may quote a secret
		return "", notConfig("is neither JSON nor base64, and no valid YAML")
	}
	if err := documents.Decode(&next); !errors.Is(err, io.EOF) {
		return "", notConfig("has several YAML documents; write one Secret, such as " + kubectlGet)
	}
	var out strings.Builder
	writeJSON(&out, document.Content[0])
	return out.String(), nil
}

func writeJSON(out *strings.Builder, node *yaml.Node) {
	switch node.Kind {
	case yaml.ScalarNode:
		out.WriteString(quoted(node.Value))
	case yaml.MappingNode:
		out.WriteString("{")
		for i := 0; i+1 < len(node.Content); i += 2 {
			if i > 0 {
				out.WriteString(",")
			}
			out.WriteString(quoted(node.Content[i].Value) + ":")
			writeJSON(out, node.Content[i+1])
		}
		out.WriteString("}")
	case yaml.SequenceNode:
		out.WriteString("[]") // no member that counts has a list
	default:
		out.WriteString("null") // an alias: what it stands for could be without end
	}
}

func quoted(text string) string {
	encoded, err := json.Marshal(text)
	if err != nil {
		return `""` // never: a string always marshals
	}
	return string(encoded)
}
