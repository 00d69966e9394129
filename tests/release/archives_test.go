// SPDX-License-Identifier: MPL-2.0

package release

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/tests/servers"
)

// TestChecksums: SHA256SUMS names each file for download, and
// SHA256SUMS.binaries the plugin's program by its platform, in the form of sha256sum.
func TestChecksums(t *testing.T) {
	t.Parallel()
	wantFiles := []string{"SHA256SUMS.binaries", chart}
	var wantBinaries []string
	for _, platform := range platforms {
		for _, p := range products {
			wantFiles = append(wantFiles, p.archive(platform), p.bill(platform))
		}
		wantBinaries = append(wantBinaries, folder(platform)+"/"+plugin.binary(platform))
	}
	if len(linuxPlatforms()) > 0 {
		for _, p := range products {
			wantFiles = append(wantFiles, p.released()+"_oci.tar")
		}
	}
	for list, want := range map[string][]string{"SHA256SUMS": wantFiles, "SHA256SUMS.binaries": wantBinaries} {
		sums := checksums(t, list)
		if len(sums) != len(want) {
			t.Errorf("%s: want %d lines, got %d", list, len(want), len(sums))
		}
		for name, sum := range sums {
			if got := sha256Hex(readFile(t, dist(name))); got != sum {
				t.Errorf("%s: %s: want %s, got %s", list, name, got, sum)
			}
			want = slices.DeleteFunc(want, func(w string) bool { return w == name })
		}
		if len(want) > 0 {
			t.Errorf("%s lacks %q", list, want)
		}
	}

	// dist/ has no file for download that the list lacks.
	entries, err := os.ReadDir(dist())
	if err != nil {
		t.Fatal(err)
	}
	sums := checksums(t, "SHA256SUMS")
	for _, entry := range entries {
		if _, known := sums[entry.Name()]; !known && !entry.IsDir() && entry.Name() != "SHA256SUMS" {
			t.Errorf("SHA256SUMS lacks %s", entry.Name())
		}
	}
}

var checksumLine = regexp.MustCompile(`^([0-9a-f]{64})  (\S+)\n$`)

// checksums reads a list in dist/ and returns the checksums by name.
func checksums(t *testing.T, list string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	for line := range strings.Lines(string(readFile(t, dist(list)))) {
		match := checksumLine.FindStringSubmatch(line)
		if match == nil {
			t.Fatalf("%s: %q is not a line of sha256sum", list, line)
		}
		sums[match[2]] = match[1]
	}
	return sums
}

func sha256Hex(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// member is a file of an archive.
type member struct {
	Mode    fs.FileMode
	Owner   string
	At      time.Time
	Content string // its checksum
}

// TestArchives: each archive has the program and its documents, and no trace of
// who packed it. The program is one for the platform.
func TestArchives(t *testing.T) {
	t.Parallel()
	at := commitTime(t)
	each(t, func(t *testing.T, p product) {
		for _, platform := range platforms {
			t.Run(platform, func(t *testing.T) {
				t.Parallel()
				read, owner := readTarGz, "root:root 0:0"
				if strings.HasSuffix(p.archive(platform), ".zip") {
					read, owner = readZip, "" // a zip file has none
				}
				content := readFile(t, dist(folder(platform), p.binary(platform)))
				want := map[string]member{p.binary(platform): {0o755, owner, at, sha256Hex(content)}}
				for name, path := range p.documents {
					mode := fs.FileMode(0o644)
					if strings.HasSuffix(name, ".sh") {
						mode = 0o755
					}
					want[name] = member{mode, owner, at, sha256Hex(readFile(t, filepath.Join(servers.Repo(), path)))}
				}
				if diff := cmp.Diff(want, read(t, dist(p.archive(platform)))); diff != "" {
					t.Errorf("%s (-want +got):\n%s", p.archive(platform), diff)
				}
				if err := isProgramFor(platform, content); err != nil {
					t.Error(err)
				}
				isCleanBuild(t, platform, content)
			})
		}
	})
}

// TestVersion: the program of this platform prints the version, for which Vault asks
// the plugin.
func TestVersion(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p product) {
		out, err := exec.CommandContext(t.Context(), hostBinary(t, p), "-version").CombinedOutput()
		if err != nil || string(out) != version+"\n" {
			t.Errorf("-version: want %q, got %q, %v", version+"\n", out, err)
		}
	})
}

// hostBinary unpacks the archive for the platform of the tests.
func hostBinary(t *testing.T, p product) string {
	t.Helper()
	platform := runtime.GOOS + "/" + runtime.GOARCH
	if !slices.Contains(platforms, platform) {
		t.Fatalf("PLATFORMS lacks %s, on which the tests run", platform)
	}
	dir := t.TempDir()
	// Not with Go's own packages, which wrote it.
	if out, err := exec.CommandContext(t.Context(), "tar", "-xzf", dist(p.archive(platform)), "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("unpacking %s: %v\n%s", p.archive(platform), err, out)
	}
	return filepath.Join(dir, p.program)
}

func readTarGz(t *testing.T, path string) map[string]member {
	t.Helper()
	uncompressed, err := gzip.NewReader(bytes.NewReader(readFile(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	members := map[string]member{}
	for archive := tar.NewReader(uncompressed); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return members
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		members[header.Name] = member{
			Mode:    header.FileInfo().Mode(),
			Owner:   fmt.Sprintf("%s:%s %d:%d", header.Uname, header.Gname, header.Uid, header.Gid),
			At:      header.ModTime.UTC(),
			Content: sha256Hex(content),
		}
	}
}

func readZip(t *testing.T, path string) map[string]member {
	t.Helper()
	archive, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	members := map[string]member{}
	for _, f := range archive.File {
		content, err := fs.ReadFile(archive, f.Name)
		if err != nil {
			t.Fatal(err)
		}
		members[f.Name] = member{Mode: f.Mode(), At: f.Modified.UTC(), Content: sha256Hex(content)}
	}
	return members
}

// commitTime returns the time that all released files have.
func commitTime(t *testing.T) time.Time {
	t.Helper()
	seconds := os.Getenv("SOURCE_DATE_EPOCH")
	if seconds == "" {
		cmd := exec.CommandContext(t.Context(), "git", "log", "-1", "--format=%ct")
		cmd.Dir = servers.Repo()
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("asking git for the time of the last commit: %v", err)
		}
		seconds = strings.TrimSpace(string(out))
	}
	epoch, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(epoch, 0).UTC()
}

// isProgramFor checks by its header that a file is a program for a platform,
// and needs no library there.
func isProgramFor(platform string, content []byte) error {
	r := bytes.NewReader(content)
	os, arch, _ := strings.Cut(platform, "/")
	var machine any
	switch os {
	case "darwin":
		f, err := macho.NewFile(r)
		if err != nil {
			return err
		}
		machine = f.Cpu
	case "windows":
		f, err := pe.NewFile(r)
		if err != nil {
			return err
		}
		machine = f.Machine
	default:
		f, err := elf.NewFile(r)
		if err != nil {
			return err
		}
		machine = f.Machine
		for _, segment := range f.Progs {
			if segment.Type == elf.PT_INTERP {
				return errors.New("needs a dynamic linker, and an image from scratch has none")
			}
		}
		if os == "freebsd" && f.OSABI != elf.ELFOSABI_FREEBSD {
			return fmt.Errorf("is for %s", f.OSABI)
		}
	}
	want := map[string]any{
		"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64, "linux/arm": elf.EM_ARM,
		"linux/s390x": elf.EM_S390, "linux/ppc64le": elf.EM_PPC64, "freebsd/amd64": elf.EM_X86_64,
		"darwin/amd64": macho.CpuAmd64, "darwin/arm64": macho.CpuArm64,
		"windows/amd64": uint16(pe.IMAGE_FILE_MACHINE_AMD64),
	}[platform]
	if machine != want {
		return fmt.Errorf("for %s the machine must be %v, is %v", arch, want, machine)
	}
	return nil
}

// isCleanBuild checks how the program was built, which the program itself
// records.
func isCleanBuild(t *testing.T, platform string, content []byte) {
	t.Helper()
	info := buildInfo(t, content)
	settings := map[string]string{}
	for _, setting := range info.Settings {
		settings[setting.Key] = setting.Value
		if strings.HasPrefix(setting.Key, "vcs") {
			t.Errorf("has %s=%s, which a source archive lacks", setting.Key, setting.Value)
		}
	}
	for key, want := range map[string]string{
		"-trimpath": "true", "CGO_ENABLED": "0", "GOOS/GOARCH": platform,
	} {
		settings["GOOS/GOARCH"] = settings["GOOS"] + "/" + settings["GOARCH"]
		if settings[key] != want {
			t.Errorf("%s: want %s, got %s", key, want, settings[key])
		}
	}
	for _, path := range []string{servers.Repo(), goEnv(t, "GOMODCACHE"), goEnv(t, "GOROOT")} {
		if bytes.Contains(content, []byte(path)) {
			t.Errorf("tells of %s, where it was built", path)
		}
	}
	if !bytes.Contains(content, []byte(version)) {
		t.Errorf("does not have the version %s", version)
	}
}

func buildInfo(t *testing.T, content []byte) *debug.BuildInfo {
	t.Helper()
	info, err := buildinfo.Read(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// TestBillsOfMaterials: the one of each platform lists what the program was
// built from, Go included, and nothing that differs from build to build.
func TestBillsOfMaterials(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p product) {
		for _, platform := range platforms {
			var bill struct {
				Format   string `json:"bomFormat"`
				Serial   string `json:"serialNumber"`
				Metadata struct {
					Timestamp  string
					Component  struct{ Name, Version string }
					Properties []struct{ Name, Value string }
				}
				Components []struct{ Name, Version string }
			}
			if err := json.Unmarshal(readFile(t, dist(p.bill(platform))), &bill); err != nil {
				t.Fatal(err)
			}
			if bill.Format != "CycloneDX" || bill.Serial != "" || bill.Metadata.Timestamp != "" {
				t.Errorf("want a CycloneDX document with no serial number or time, got %q, %q, %q", bill.Format, bill.Serial, bill.Metadata.Timestamp)
			}
			if got := bill.Metadata.Component; got.Name != p.module || got.Version != version {
				t.Errorf("want a document of %s %s, got %s %s", p.module, version, got.Name, got.Version)
			}
			content := readFile(t, dist(folder(platform), p.binary(platform)))
			if !slices.Contains(bill.Metadata.Properties, struct{ Name, Value string }{"cdx:gomod:binary:hash:SHA-256", sha256Hex(content)}) {
				t.Errorf("describes another program than the released one")
			}

			info := buildInfo(t, content)
			want := []string{"std " + info.GoVersion}
			for _, module := range info.Deps {
				if module.Path == plugin.module {
					module.Version = version // the client takes it from the same repository
				} else if module.Replace != nil {
					module = module.Replace
				}
				want = append(want, module.Path+" "+module.Version)
			}
			var got []string
			for _, component := range bill.Components {
				got = append(got, component.Name+" "+component.Version)
			}
			slices.Sort(want)
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: modules (-in the program +in the bill):\n%s", platform, diff)
			}
		}
	})
}
