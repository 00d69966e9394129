// SPDX-License-Identifier: MPL-2.0

package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	goyaml "go.yaml.in/yaml/v2"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// maxFile is the size limit of a configuration, in bytes.
const maxFile = 1 << 20

// LoadFile reads a configuration in YAML or JSON into a struct with json tags. It
// refuses unknown and repeated fields, and files that anyone except root and the
// user of this process can write. An error that is [fs.ErrNotExist] means that
// there is no such file.
func LoadFile(path string, into any) error {
	content, err := ReadFile(path)
	if err != nil {
		return err
	}
	return Decode(path, content, into)
}

// Decode decodes the content of a configuration that was read from path. It refuses
// unknown and repeated fields.
func Decode(path string, content []byte, into any) error {
	if err := Unmarshal(content, into); err != nil {
		return failf("%s: %s", path, err).do("the fields are in docs/client/configuration.md")
	}
	return nil
}

// Unmarshal decodes YAML or JSON as strictly as the kubelet does its own file: it
// refuses a field that is unknown, in another case, or there twice. It also refuses a
// second document, of which the kubelet and most others read nothing.
func Unmarshal(content []byte, into any) error {
	asJSON, err := ToJSON(content)
	if err != nil {
		return err
	}
	wrong, err := kjson.UnmarshalStrict(asJSON, into)
	var notOf *json.UnmarshalTypeError
	switch {
	case errors.As(err, &notOf) && notOf.Type.Kind() == reflect.String:
		// YAML takes 7, yes and n for other things than text.
		return fmt.Errorf("%s must be text, not a %s: write it in quotes", notOf.Field, notOf.Value)
	case err == nil && len(wrong) > 0:
		return wrong[0]
	}
	return err
}

// ToJSON turns a single document of YAML or JSON into JSON.
func ToJSON(content []byte) ([]byte, error) {
	asJSON, err := yaml.YAMLToJSONStrict(content)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "error converting YAML to JSON: "))
	}
	documents := goyaml.NewDecoder(bytes.NewReader(content))
	for first := true; ; first = false {
		var document any
		switch err := documents.Decode(&document); {
		case errors.Is(err, io.EOF):
			return asJSON, nil
		case err != nil:
			return nil, err
		case document != nil && !first:
			return nil, errors.New("it has several documents, divided by ---, and only the first would be read")
		}
	}
}

// ReadFile reads a file that decides what this process trusts. See [LoadFile].
func ReadFile(path string) ([]byte, error) {
	if err := CheckOwner(path); err != nil {
		return nil, err
	}
	file, err := os.Open(path) //nolint:gosec // the path is the caller's to choose
	if err != nil {
		return nil, fileFailure(path, err)
	}
	defer file.Close() //nolint:errcheck // it was only read
	// Since CheckOwner, another file may have taken its place.
	info, err := file.Stat()
	if err != nil {
		return nil, fileFailure(path, err)
	}
	if why := writableByOthers(info); why != "" {
		return nil, unsafeFile(path, path, why)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, fileFailure(path, err)
	}
	if len(content) > maxFile {
		return nil, failf("%s is longer than %d bytes", path, maxFile)
	}
	return content, nil
}

// CheckOwner refuses a file that others can write, or replace in its folder.
func CheckOwner(path string) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fileFailure(path, err)
	}
	for _, name := range []string{target, filepath.Dir(target)} {
		info, err := os.Stat(name) //nolint:gosec // the path is the caller's to choose
		if err != nil {
			return fileFailure(name, err)
		}
		if why := writableByOthers(info); why != "" {
			return unsafeFile(path, name, why)
		}
	}
	return nil
}

// CheckPath refuses a program or a folder that others can write, or replace together with
// a folder anywhere above it. Those who run a program by its path do not look whose it
// is.
func CheckPath(path string) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fileFailure(path, err)
	}
	for _, name := range []string{target, filepath.Dir(path)} { // a link lies in a folder, too
		for ; ; name = filepath.Dir(name) {
			if err := CheckOwner(name); err != nil {
				return err
			}
			if name == filepath.Dir(name) {
				break
			}
		}
	}
	return nil
}

// unsafeFile is a failure of a file because of itself or its folder.
func unsafeFile(path, name, why string) error {
	return failf("%s is not used, because %s %s", path, name, why).do("chown root and chmod go-w %s", name)
}

// missingFile is a failure that is [fs.ErrNotExist].
type missingFile struct{ *Failure }

func (missingFile) Is(target error) bool { return target == fs.ErrNotExist }
func (m missingFile) Unwrap() error      { return m.Failure }

func fileFailure(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return missingFile{failf("%s does not exist", path)}
	}
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	return failf("%s cannot be read: %s", path, err)
}
