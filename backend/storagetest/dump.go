// SPDX-License-Identifier: MPL-2.0

// Package storagetest helps tests of upgrades. It reads the dumps below
// tests/testdata/storage: what earlier builds of the plugin wrote into Vault's
// storage, and how they answered from it. It starts servers in place of the
// registries that those builds used.
package storagetest

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Dump is the storage and the answers of one build.
type Dump struct {
	Build string    `json:"build"` // the commit or tag
	At    time.Time `json:"at"`    // when the answers were given

	// Storage holds the entries of the mount, by key.
	Storage map[string]Value `json:"storage"`

	// Leases holds Vault's own entries for the leases of the mount, by lease ID.
	Leases map[string]Value `json:"leases,omitempty"`

	// Answers holds the build's answers to reads, by path below the mount. The path
	// of a list ends in a slash.
	Answers map[string]Answer `json:"answers"`
}

// Answer is the answer to a read: data and warnings, or an error.
type Answer struct {
	Data     map[string]any `json:"data,omitempty"`
	Warnings []string       `json:"warnings,omitempty"`
	Error    string         `json:"error,omitempty"`
}

// Value is a stored value, byte for byte. A dump shows compact JSON, as the engine and
// Vault encode it, as JSON: as it is if it ends in a newline, and in brackets if it
// does not. It shows any other value as a string.
type Value string

// MarshalJSON implements [json.Marshaler].
func (v Value) MarshalJSON() ([]byte, error) {
	text := string(v)
	if !strings.HasSuffix(text, "\n") {
		text = "[" + text + "]"
	}
	var shown Value
	if strings.HasPrefix(string(v), "{") && shown.UnmarshalJSON([]byte(text)) == nil && shown == v {
		return []byte(text), nil
	}
	return encode(string(v))
}

// UnmarshalJSON implements [json.Unmarshaler].
func (v *Value) UnmarshalJSON(shown []byte) error {
	if bytes.HasPrefix(shown, []byte(`"`)) {
		return json.Unmarshal(shown, (*string)(v))
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, shown); err != nil {
		return err
	}
	text, inBrackets := strings.CutPrefix(compact.String(), "[")
	if inBrackets {
		*v = Value(strings.TrimSuffix(text, "]"))
	} else {
		*v = Value(text + "\n")
	}
	return nil
}

// encode escapes no HTML characters, so that a dump has the characters of the storage.
func encode(value any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(value)
	return text.Bytes(), err
}

// Folder returns the folder of the dumps.
func Folder() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(file))), "tests", "testdata", "storage")
}

// Load reads all dumps, by name, with the answers in today's words. Each call
// returns new copies.
func Load(t testing.TB) map[string]*Dump {
	t.Helper()
	folder := os.DirFS(Folder())
	files, err := fs.Glob(folder, "*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("found no dumps in %s: %v", Folder(), err)
	}
	dumps := map[string]*Dump{}
	for _, file := range files {
		content, err := fs.ReadFile(folder, file)
		if err != nil {
			t.Fatal(err)
		}
		dump := decode(t, content)
		dump.reword()
		dump.addGracePeriod()
		dumps[strings.TrimSuffix(file, ".json")] = dump
	}
	return dumps
}

func decode(t testing.TB, content []byte) *Dump {
	t.Helper()
	d := &Dump{}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	if err := decoder.Decode(d); err != nil {
		t.Fatalf("decoding a dump: %v", err)
	}
	return d
}

// Save writes a dump, and fails the test unless it reads back as it was.
func (d *Dump) Save(t testing.TB, file string) {
	t.Helper()
	content, err := encode(d)
	if err != nil {
		t.Fatal(err)
	}
	if again := decode(t, content); !maps.Equal(again.Storage, d.Storage) || !maps.Equal(again.Leases, d.Leases) {
		t.Fatal("the dump does not read as what was written")
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Replace replaces a text everywhere, such as the address of a server that no longer
// exists.
func (d *Dump) Replace(old, text string) {
	old, text = inJSON(old), inJSON(text)
	d.replaceStored(old, text)
	for path, answer := range d.Answers {
		encoded, err := encode(answer)
		if err != nil {
			panic(err) // it comes from JSON
		}
		answer = Answer{}
		decoder := json.NewDecoder(strings.NewReader(strings.ReplaceAll(string(encoded), old, text)))
		decoder.UseNumber()
		if err := decoder.Decode(&answer); err != nil {
			panic(err)
		}
		d.Answers[path] = answer
	}
}

// replaceStored replaces JSON in the stored values, and in JSON inside their strings.
func (d *Dump) replaceStored(old, text string) {
	for _, values := range []map[string]Value{d.Storage, d.Leases} {
		for key, value := range values {
			replaced := strings.ReplaceAll(string(value), old, text)
			if inJSON(old) != old {
				replaced = strings.ReplaceAll(replaced, inJSON(old), inJSON(text))
			}
			values[key] = Value(replaced)
		}
	}
}

// connection is the part of a stored connection that tests need.
type connection struct {
	Type     string            `json:"type"`
	URL      string            `json:"url"`
	Settings map[string]string `json:"settings"`
	Secrets  map[string]string `json:"secrets"`
	Root     struct {
		Name    string `json:"name"`
		Pending *root  `json:"pending"`
		Retired *root  `json:"retired"`
	} `json:"root"`
}

type root struct {
	Name    string            `json:"name"`
	Secrets map[string]string `json:"secrets"`
}

// connections returns those of the dump, by name.
func (d *Dump) connections() map[string]connection {
	all := map[string]connection{}
	for key, value := range d.Storage {
		if name, found := strings.CutPrefix(key, "connections/"); found {
			var c connection
			if err := json.Unmarshal([]byte(value), &c); err != nil {
				panic(err)
			}
			all[name] = c
		}
	}
	return all
}

// ReplaceSecrets replaces the root credentials by obviously invented ones that begin with a
// text.
func (d *Dump) ReplaceSecrets(text string) {
	for name, c := range d.connections() {
		for which, secrets := range map[string]map[string]string{"-current": c.Secrets, "-pending": c.Root.Pending.secrets(), "-retired": c.Root.Retired.secrets()} {
			for _, secret := range secrets {
				if !strings.HasPrefix(secret, text) {
					d.Replace(secret, text+"-"+name+which)
				}
			}
		}
	}
}

func (r *root) secrets() map[string]string {
	if r == nil {
		return nil
	}
	return r.Secrets
}

// inJSON returns a text as it is written in a JSON string.
func inJSON(text string) string {
	encoded, err := encode(text)
	if err != nil {
		panic(err) // every text can be encoded
	}
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(string(encoded)), `"`), `"`)
}
