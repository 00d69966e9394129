// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"slices"
	"strings"
)

// otherNames are names that other tools give to a field, in the form of plainName, and
// the fields that they mean, the likeliest first.
var otherNames = map[string][]string{
	"auth":             {"dockerconfigjson"},
	"auths":            {"dockerconfigjson"},
	"config":           {"dockerconfigjson"},
	"configjson":       {"dockerconfigjson"},
	"dockerauth":       {"dockerconfigjson"},
	"dockerauthconfig": {"dockerconfigjson"},
	"dockercfg":        {"dockerconfigjson"},
	"dockerconfig":     {"dockerconfigjson"},
	"dockeremail":      {"email"},
	"dockerpassword":   {"password"},
	"dockerserver":     {"registry"},
	"dockerusername":   {"username"},
	"address":          {"url", "registry"},
	"endpoint":         {"url", "registry"},
	"host":             {"url", "registry"},
	"server":           {"url", "registry"},
	"serveraddress":    {"registry"},
	"uri":              {"url", "registry"},
	"url":              {"registry"},
	"account":          {"username"},
	"login":            {"username"},
	"name":             {"username"},
	"user":             {"username"},
	"apikey":           {"password", "token"},
	"pass":             {"password", "token"},
	"passwd":           {"password", "token"},
	"pwd":              {"password", "token"},
	"secret":           {"password", "token"},
	"token":            {"password"},
	"maxttl":           {"max_ttl", "expires_at"},
	"ttl":              {"ttl", "expires_at"},
	"expiration":       {"expires_at"},
	"expires":          {"expires_at"},
	"expiry":           {"expires_at"},
	"validuntil":       {"expires_at"},
	"bundles":          {"allowed_bundles"},
	"roles":            {"members", "allowed_roles"},
	"targets":          {"allowed_targets"},
	"grace":            {"grace_period"},
	"period":           {"rotation_period"},
	"rotation":         {"rotation_period"},
	"ca":               {"ca_pem"},
	"cabundle":         {"ca_pem"},
	"cacert":           {"ca_pem"},
	"image":            {"verify_repository", "repository"},
	"repo":             {"verify_repository", "repository"},
	"scope":            {"access"},
	"scopes":           {"access"},
}

// maxFieldName is longer than the name of any field, in bytes.
const maxFieldName = 32

// plainName is a name without what people write in different ways.
func plainName(name string) string {
	return strings.NewReplacer("_", "", "-", "", ".", "", " ", "").Replace(strings.ToLower(name))
}

// probableField returns the field that was probably meant by a name, "" if none is
// likely.
func probableField(name string, fields []string) string {
	if len(name) > 2*maxFieldName {
		return ""
	}
	plain := plainName(name)
	for _, field := range fields {
		if plainName(field) == plain && field != name {
			return field
		}
	}
	for _, field := range otherNames[plain] {
		if field != name && slices.Contains(fields, field) {
			return field
		}
	}
	nearest, least := "", len(plain)/3+1
	for _, field := range fields {
		if d := editDistance(plain, plainName(field)); d < least && field != name {
			nearest, least = field, d
		}
	}
	return nearest
}

// editDistance counts the letters that have to be changed, added, left out or swapped
// with the next one to get from one text to the other.
func editDistance(a, b string) int {
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			changed := last[j]
			if a[i] != b[j] {
				changed++
			}
			row[j+1] = min(changed, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}

// didYouMean returns what stands between a statement about a field and what to do: the
// field that was probably meant, if there is one.
func didYouMean(name string, fields []string) string {
	if probable := probableField(name, fields); probable != "" {
		return "; did you mean " + probable + "? Otherwise: "
	}
	return "; "
}

// pipedWhole says what was probably piped into a write, and what would be right, where
// the names of unknown fields tell; "" elsewhere.
func pipedWhole(unknown, fields []string) string {
	all := func(names ...string) bool {
		return !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(unknown, name) })
	}
	switch {
	case all("data", "lease_duration"):
		return "this is a whole answer of Vault: read it with -format=json -field=data"
	case all("apiVersion", "kind"):
		if slices.Contains(fields, "dockerconfigjson") {
			return "this is an object of Kubernetes: pipe a Secret into one field, dockerconfigjson=-"
		}
	case all("data", "metadata"):
		return "this is a secret of KV version 2 with its versions: read it with vault kv get -format=json -field=data"
	}
	return ""
}

// enumerated returns names as a sentence lists them, such as "a, b and c" with " and ".
func enumerated(names []string, beforeLast string) string {
	last := max(len(names)-2, 0)
	return strings.Join(append(names[:last:last], strings.Join(names[last:], beforeLast)), ", ")
}
