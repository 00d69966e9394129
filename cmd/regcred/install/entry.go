// SPDX-License-Identifier: MPL-2.0

package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
	"vault-plugin-secrets-regcred/cmd/regcred/kubelet"
)

// The kubelet's CredentialProviderConfig is kept as it is, except for the entries of
// this provider: a newer kubelet may know fields that this program does not.
const (
	configVersion = "kubelet.config.k8s.io/v1"
	configKind    = "CredentialProviderConfig"
)

// entry is one provider in a CredentialProviderConfig.
type entry struct {
	name   string
	fields map[string]any
}

// document is a CredentialProviderConfig.
type document struct {
	fields  map[string]any // all of it, except the providers
	entries []entry
	json    bool // how it is written
}

func decodeDocument(path string, content []byte) (document, error) {
	bad := func(format string, args ...any) (document, error) {
		return document{}, &client.Failure{What: path + ": " + fmt.Sprintf(format, args...), Do: "it must be a " + configKind + " of " + configVersion + "; nothing was changed in it"}
	}
	asJSON, err := client.ToJSON(content)
	if err != nil {
		return bad("%s", err)
	}
	d := document{json: bytes.HasPrefix(bytes.TrimSpace(content), []byte("{"))}
	decoder := json.NewDecoder(bytes.NewReader(asJSON))
	decoder.UseNumber()
	if err := decoder.Decode(&d.fields); err != nil || d.fields == nil {
		return bad("it is no object")
	}
	if d.fields["kind"] != configKind || d.fields["apiVersion"] != configVersion {
		return bad("it is a %v of %v", d.fields["kind"], d.fields["apiVersion"])
	}
	list, isList := d.fields["providers"].([]any)
	if !isList {
		return bad("providers is no list")
	}
	for i, one := range list {
		fields, _ := one.(map[string]any)
		name, _ := fields["name"].(string)
		if name == "" {
			return bad("providers[%d] has no name", i)
		}
		d.entries = append(d.entries, entry{name, fields})
	}
	delete(d.fields, "providers")
	return d, nil
}

// entriesOf returns the entries of the file with the provider's own.
func entriesOf(path string, content []byte) ([]entry, error) {
	d, err := decodeDocument(path, content)
	if err == nil && len(d.entries) == 0 {
		err = &client.Failure{What: path + " has no provider", Do: "docs/client/kubelet.md shows one"}
	}
	return d.entries, err
}

func (d document) encode() ([]byte, error) {
	all := map[string]any{}
	for name, value := range d.fields {
		all[name] = value
	}
	list := make([]any, 0, len(d.entries))
	for _, e := range d.entries {
		list = append(list, e.fields)
	}
	all["providers"] = list
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(all); err != nil {
		return nil, err
	}
	if d.json {
		return text.Bytes(), nil
	}
	return yaml.JSONToYAML(text.Bytes())
}

func (d document) find(name string) int {
	for i, e := range d.entries {
		if e.name == name {
			return i
		}
	}
	return -1
}

// add puts an entry in the place of the one with its name, or at the end: of two
// providers with a credential for one registry, the kubelet tries the former first.
func (d *document) add(e entry) (changed bool) {
	i := d.find(e.name)
	if i < 0 {
		d.entries = append(d.entries, e)
		return true
	}
	changed = !reflect.DeepEqual(d.entries[i].fields, e.fields)
	d.entries[i] = e
	return changed
}

// hasOurs reports whether an entry is one of this program, under any of its names.
func (d document) hasOurs() bool {
	return slices.ContainsFunc(d.entries, func(e entry) bool {
		return e.name == kubelet.Program || client.Instance(e.name, kubelet.Program) != ""
	})
}

func (d *document) remove(name string) (changed bool) {
	i := d.find(name)
	if i < 0 {
		return false
	}
	d.entries = append(d.entries[:i], d.entries[i+1:]...)
	return true
}

// backup is the file as it was when it last had no entry of this provider. The
// kubelet does not read it, because of its ending.
func (r *run) backup() string { return r.config + ".before-regcred" }

// addEntries adds entries to the kubelet's file, and keeps the rest. Another provider on
// the node has an installation of its own, which changes the same file.
func (r *run) addEntries(entries []entry) error {
	unlock, err := lock(filepath.Dir(r.config))
	if err != nil {
		return err
	}
	defer unlock()
	content, info, err := readRegular(r.config)
	if err != nil {
		return err
	}
	if info == nil {
		if r.mustExist {
			return &client.Failure{What: r.config + " does not exist, and -must-exist was given", Do: "is this a node of the kind that -config is for?"}
		}
		if err := r.checkFolder(entries); err != nil {
			return err
		}
		d := document{fields: map[string]any{"apiVersion": configVersion, "kind": configKind}, entries: entries, json: strings.HasSuffix(r.config, ".json")}
		return r.writeDocument(d, 0o644, "put in place")
	}
	if err := client.CheckOwner(r.config); err != nil {
		return err
	}
	d, err := decodeDocument(r.config, content)
	if err != nil {
		return err
	}
	changed, known := false, d.hasOurs()
	for _, e := range entries {
		changed = d.add(e) || changed
	}
	if !changed {
		if !r.quiet {
			r.say(r.config, "as it should be", "metric "+loaded(content))
		}
		return nil
	}
	if !known {
		if err := r.replace(r.backup(), content, info.Mode().Perm()); err != nil {
			return err
		}
	}
	return r.writeDocument(d, info.Mode().Perm(), "changed")
}

// checkFolder refuses a new file with an entry that another file of the folder has. A
// kubelet that reads the folder does not start with both.
func (r *run) checkFolder(entries []entry) error {
	for _, extension := range extensions {
		found, _ := filepath.Glob(filepath.Join(filepath.Dir(r.config), "*"+extension))
		for _, path := range found {
			content, info, err := readRegular(path)
			if path == filepath.Clean(r.config) || err != nil || info == nil {
				continue
			}
			other, err := decodeDocument(path, content)
			if err != nil {
				continue // not ours to judge
			}
			for _, e := range entries {
				if other.find(e.name) >= 0 {
					return &client.Failure{
						What: fmt.Sprintf("%s has the provider %s already: a kubelet that reads the folder does not start with both", path, e.name),
						Do:   "take it out there first, with -remove and -config=" + path,
					}
				}
			}
		}
	}
	return nil
}

// removeEntries takes the entries out of the kubelet's file. The file as it was
// before comes back byte for byte, if nobody has changed it since.
func (r *run) removeEntries(entries []entry) error {
	if _, err := os.Stat(filepath.Dir(r.config)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := lock(filepath.Dir(r.config))
	if err != nil {
		return err
	}
	defer unlock()
	content, info, err := readRegular(r.config)
	if err != nil || info == nil {
		return err
	}
	d, err := decodeDocument(r.config, content)
	if err != nil {
		return err
	}
	changed := false
	for _, e := range entries {
		changed = d.remove(e.name) || changed
	}
	switch {
	case !changed && d.hasOurs():
		return nil
	case !changed:
		return r.delete(r.backup())
	case d.hasOurs(): // another installation has its own there
		return r.writeDocument(d, info.Mode().Perm(), "changed")
	case len(d.entries) == 0 && !r.deleteEmpty:
		return &client.Failure{
			What: r.config + " has no other provider, and with an empty list the kubelet does not start",
			Do:   "take its flags --image-credential-provider-config and --image-credential-provider-bin-dir away and restart it, then use -delete-empty",
		}
	case len(d.entries) == 0:
		if err := r.delete(r.config); err != nil {
			return err
		}
		return r.delete(r.backup())
	}
	if before, info, err := readRegular(r.backup()); err == nil && info != nil {
		if former, err := decodeDocument(r.backup(), before); err == nil && reflect.DeepEqual(former, d) {
			if err := r.replace(r.config, before, info.Mode().Perm()); err != nil {
				return err
			}
			r.say(r.config, "as it was before", "restart the kubelet; metric "+loaded(before))
			return r.delete(r.backup())
		}
	}
	if err := r.writeDocument(d, info.Mode().Perm(), "changed"); err != nil {
		return err
	}
	return r.delete(r.backup())
}

func (r *run) writeDocument(d document, mode fs.FileMode, what string) error {
	content, err := d.encode()
	if err != nil {
		return &client.Failure{What: r.config + " cannot be encoded"}
	}
	if err := r.replace(r.config, content, mode); err != nil {
		return err
	}
	r.say(r.config, what, "restart the kubelet; metric "+loaded(content))
	return nil
}

// loaded returns what the kubelet's metric kubelet_credential_provider_config_info
// shows once it has read this file, and no other.
func loaded(content []byte) string {
	sum := sha256.New()
	_ = binary.Write(sum, binary.BigEndian, uint64(len(content)))
	_, _ = sum.Write(content)
	return fmt.Sprintf("sha256:%x", sum.Sum(nil))
}
