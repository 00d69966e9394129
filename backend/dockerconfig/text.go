// SPDX-License-Identifier: MPL-2.0

package dockerconfig

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// byteOrderMark stands in front of the texts that some Windows programs write.
const byteOrderMark = "\ufeff"

// Tidy undoes what a program has put in front of a text that somebody wrote: it
// removes a byte order mark, with a warning. It refuses UTF-16.
func Tidy(text string) (tidied string, warnings []string, err error) {
	if isUTF16(text) {
		return "", nil, errors.New("must be UTF-8, and is UTF-16, as Windows PowerShell writes files; convert the file, such as with iconv -f UTF-16 -t UTF-8")
	}
	tidied = strings.TrimLeft(text, byteOrderMark)
	if tidied != text {
		warnings = []string{"its byte order mark was removed"}
	}
	return tidied, warnings, nil
}

// isUTF16 reports whether a text consists of the bytes of ASCII text in UTF-16. JSON
// carries each byte of its byte order mark as U+FFFD.
func isUTF16(text string) bool {
	rest := text
	for _, mark := range []string{"\xff\xfe", "\xfe\xff", "\ufffd\ufffd"} {
		rest = strings.TrimPrefix(rest, mark)
	}
	if len(rest) < 4 {
		return false
	}
	var nul [2]int
	for i := range len(rest) {
		if rest[i] == 0 {
			nul[i%2]++
		}
	}
	// Most of the text is enough: a line end may be cut off, and names may have
	// other letters.
	return max(nul[0], nul[1]) > len(rest)/3 && min(nul[0], nul[1]) == 0
}

// unlikely are texts that stand in the place of a secret: what programs print where
// they find nothing, where they hide it, and where nobody has filled it in.
var unlikely = []struct {
	text *regexp.Regexp
	is   string
}{
	{regexp.MustCompile(`^(null|undefined|None|nil|<nil>|<none>|<no value>)$`), "looks like what jq and templates print where they find nothing"},
	{regexp.MustCompile(`^(\*{3,}|•{3,}|\[(MASKED|REDACTED|redacted)\]|<(redacted|REDACTED|sensitive)>|\(sensitive( value)?\))$`), "looks like a text that hides a secret"},
	{regexp.MustCompile(`^(\$\{[A-Za-z_]\w*\}|\$[A-Z_][A-Z0-9_]*|\$\(.*\)|\{\{.*\}\}|%[A-Za-z_]\w*%|<[A-Za-z][A-Za-z _-]*>)$`), "looks like a variable that nothing has filled in"},
	{filePath, "looks like the name of a file; Vault's command line reads a file only if '@' stands in front of its name"},
}

// filePath matches names of files that hardly any secret looks like.
var filePath = regexp.MustCompile(`^(@|file:(//)?)?(~/|\.{1,2}/|/|[A-Za-z]:\\|\\\\)?([\w.@ -]+[/\\])*[\w.-]*\w\.(json|ya?ml|txt|cfg|conf|env|key|pem|crt|token|dockercfg|dockerconfigjson|b64|base64)$` +
	`|^(@|file:(//)?)?(~/|\.{1,2}/|/(run|var|etc|tmp|home|root|mnt|opt|usr|Users|secrets?|vault)/)[\w./@-]+$` +
	`|^(@|file:(//)?)?([\w./~-]*/)?\.(dockercfg|dockerconfigjson)$`)

// doubts says what a password or user name looks like that is kept as it is, and that
// hardly any registry has. what names the field.
func doubts(what, text string) (warnings []string) {
	const kept = ", which is kept; hardly any registry has such a "
	first, _ := utf8.DecodeRuneInString(text)
	last, _ := utf8.DecodeLastRuneInString(text)
	inner := strings.TrimFunc(text, unicode.IsSpace)
	if unicode.IsSpace(first) {
		warnings = append(warnings, "begins with white space"+kept+what)
	}
	switch {
	case last == '\n':
		warnings = append(warnings, "ends with a newline"+kept+what)
	case last == '\r':
		warnings = append(warnings, "ends with a carriage return"+kept+what)
	case unicode.IsSpace(last) && inner != "":
		warnings = append(warnings, "ends with white space"+kept+what)
	}
	if strings.ContainsAny(inner, "\r\n") {
		switch {
		case isWrappedBase64(inner):
			warnings = append(warnings, "is base64 in several lines, which are kept; registries take it in one line, as base64 -w0 writes it")
		case !json.Valid([]byte(inner)):
			warnings = append(warnings, "has several lines, which are kept; hardly any registry has such a "+what)
		}
	}
	if len(inner) > 1 && (first == '"' || first == '\'') && first == last {
		warnings = append(warnings, "is in quotation marks, which are kept; if a file or a command line has added them, write it without them")
	}
	for _, u := range unlikely {
		if u.text.MatchString(inner) {
			warnings = append(warnings, u.is)
			break
		}
	}
	return warnings
}

// isWrappedBase64 reports whether a text is base64 in lines of one length, as most
// programs wrap it.
func isWrappedBase64(text string) bool {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, line := range lines {
		if len(line) > len(lines[0]) || i < len(lines)-1 && len(line) != len(lines[0]) {
			return false
		}
	}
	_, err := base64.StdEncoding.DecodeString(text)
	return err == nil && len(lines[0]) >= 16
}
