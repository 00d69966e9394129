// SPDX-License-Identifier: MPL-2.0

package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

// files changes files of a node, and says so.
type files struct {
	out   io.Writer
	quiet bool              // do not mention what is as it should be
	after func(step string) // for tests: is called after each change
}

func (f *files) say(path, what, note string) {
	if note != "" {
		what += " (" + note + ")"
	}
	_, _ = fmt.Fprintf(f.out, "%s: %s\n", path, what)
}

func (f *files) did(step string) {
	if f.after != nil {
		f.after(step)
	}
}

// put makes a file have this content and mode, and belong to this user or root. A reader
// finds the former content or this one, never a part.
func (f *files) put(path string, content []byte, mode fs.FileMode, note string) error {
	former, info, err := readRegular(path)
	if err != nil {
		return err
	}
	what := "replaced"
	switch {
	case info == nil:
		what = "put in place"
	case bytes.Equal(former, content) && info.Mode().Perm() == mode && client.CheckOwner(path) == nil:
		if !f.quiet {
			f.say(path, "as it should be", note)
		}
		return nil
	}
	if err := f.replace(path, content, mode); err != nil {
		return err
	}
	f.say(path, what, note)
	return client.CheckOwner(path)
}

// readRegular reads a file. Without one, info is nil. It refuses a symlink: what a
// container sees behind it is not what the node sees.
func readRegular(path string) (content []byte, info fs.FileInfo, err error) {
	info, err = os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err == nil && !info.Mode().IsRegular() {
		return nil, nil, &client.Failure{What: path + " is no regular file", Do: "name the file itself, and not a link to it"}
	}
	if err == nil {
		content, err = os.ReadFile(path) //nolint:gosec // the caller says where
	}
	if err != nil {
		return nil, nil, &client.Failure{What: fmt.Sprintf("%s cannot be read: %s", path, why(err))}
	}
	return content, info, nil
}

// replace writes a file beside the other and renames it. The name of the half-done
// file is always the same, so that what a crash leaves is overwritten, and it begins
// with a dot and ends in ".new", so that the kubelet does not read it in a folder.
func (f *files) replace(path string, content []byte, mode fs.FileMode) error {
	half := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.Remove(half); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &client.Failure{What: fmt.Sprintf("%s cannot be deleted: %s", half, why(err))}
	}
	f.did("deleted " + half)
	err := writeSynced(half, content, mode)
	f.did("wrote " + half)
	if err == nil {
		err = os.Rename(half, path)
	}
	if err != nil {
		return &client.Failure{What: fmt.Sprintf("%s cannot be written: %s", path, why(err))}
	}
	syncFolder(path)
	f.did("replaced " + path)
	return nil
}

func writeSynced(path string, content []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the caller says where
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	// Not at the opening, because the umask would take bits away.
	return errors.Join(err, file.Chmod(mode), file.Sync(), file.Close())
}

// syncFolder brings a rename or a deletion to the disk. Not every file system can;
// the worst is that a node that loses power comes up with the former file.
func syncFolder(path string) {
	if folder, err := os.Open(filepath.Dir(path)); err == nil {
		_ = folder.Sync()
		_ = folder.Close()
	}
}

// delete deletes a file, if it is there.
func (f *files) delete(path string) error {
	switch err := os.Remove(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return &client.Failure{What: fmt.Sprintf("%s cannot be deleted: %s", path, why(err))}
	}
	syncFolder(path)
	f.did("deleted " + path)
	f.say(path, "deleted", "")
	return nil
}

// makeFolder makes a folder, and refuses one in which others could replace files.
func makeFolder(path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil { //nolint:gosec // the kubelet and the provider may run as any user
		return &client.Failure{What: fmt.Sprintf("%s cannot be made: %s", path, why(err))}
	}
	return client.CheckPath(path)
}

// why returns the reason of an error of a file, without the path.
func why(err error) string {
	var at *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &at):
		err = at.Err
	case errors.As(err, &link):
		err = link.Err
	}
	return err.Error()
}
