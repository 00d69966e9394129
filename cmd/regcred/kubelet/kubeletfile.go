// SPDX-License-Identifier: MPL-2.0

package kubelet

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	kubelet "k8s.io/kubelet/config/v1"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

// The names of the kubelet's flags, and its words in its configuration.
const (
	configFlag = "image-credential-provider-config"
	binDirFlag = "image-credential-provider-bin-dir"

	configKind = "CredentialProviderConfig"

	cacheByAccount, cacheByToken = "ServiceAccount", "Token"
)

// configVersions are the versions of its file that the kubelet reads.
var configVersions = []string{"kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"}

// programLimit is how long the program may take to say its version.
const programLimit = 5 * time.Second

// providerEntry is what the kubelet's own configuration says about this program.
// nil stands for no such configuration.
type providerEntry struct {
	kubelet.CredentialProvider
	file string
}

// loadEntry reads the kubelet's file, or its folder of files, and returns the
// entry with a name. Without a name, it is the only entry of this program.
func loadEntry(path, name string) (*providerEntry, error) {
	files, err := kubeletFiles(path)
	if err != nil {
		return nil, err
	}
	var found []*providerEntry
	var others []string
	for _, file := range files {
		config, err := loadKubelets(file)
		if err != nil {
			return nil, err
		}
		if config.Kind != configKind || !slices.Contains(configVersions, config.APIVersion) {
			return nil, &client.Failure{
				What: fmt.Sprintf("%s is of kind %q and apiVersion %q: the kubelet does not start with it", file, config.Kind, config.APIVersion),
				Do:   "write kind: " + configKind + " and apiVersion: " + configVersions[0],
			}
		}
		for _, entry := range config.Providers {
			if entry.Name == name || name == "" && isOurs(entry.Name) {
				found = append(found, &providerEntry{entry, file})
			} else {
				others = append(others, entry.Name)
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		wanted := name
		if name == "" {
			wanted = Program
		}
		return nil, &client.Failure{What: fmt.Sprintf("%s has no provider called %s; it has %s", path, wanted, list(others)), Do: "add it, as docs/client/kubelet.md shows"}
	}
	names := make([]string, len(found))
	for i, entry := range found {
		names[i] = entry.Name
	}
	return nil, &client.Failure{What: fmt.Sprintf("%s has several providers of this program: %s", path, list(names)), Do: "choose one with -provider"}
}

// loadKubelets reads a file as strictly as the kubelet does.
func loadKubelets(path string) (config kubelet.CredentialProviderConfig, err error) {
	content, err := client.ReadFile(path)
	if err != nil {
		return config, err
	}
	if err := client.Unmarshal(content, &config); err != nil {
		return config, &client.Failure{What: fmt.Sprintf("%s: %s", path, err), Do: "correct it: the kubelet does not start with it, or does not read all of it"}
	}
	return config, nil
}

// isKubeletsOwn reports whether a file is one of the kubelet's own.
func isKubeletsOwn(path string) bool {
	config, err := loadKubelets(path)
	return err == nil && config.Kind == configKind
}

// kubeletFiles returns the files that the kubelet reads: the file, or all in the
// folder that have one of its three endings.
func kubeletFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, &client.Failure{What: path + " cannot be read", Do: "give what the kubelet has as --" + configFlag}
	case !info.IsDir():
		return []string{path}, nil
	}
	var files []string
	for _, ending := range []string{"json", "yaml", "yml"} {
		some, _ := filepath.Glob(filepath.Join(path, "*."+ending))
		files = append(files, some...)
	}
	slices.Sort(files)
	if len(files) == 0 {
		return nil, &client.Failure{What: path + " has no file that ends with .json, .yaml or .yml: the kubelet does not start with it"}
	}
	return files, nil
}

func isOurs(name string) bool { return name == Program || client.Instance(name, Program) != "" }

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// useEnvironment sets the variables that the kubelet sets for the program. It notes
// others that this process has, and the kubelet perhaps has not.
func (e *providerEntry) useEnvironment(steps *client.Steps) {
	own := map[string]bool{}
	for _, variable := range e.Env {
		own[variable.Name] = true
	}
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if (strings.HasPrefix(name, "VAULT_") || strings.HasPrefix(name, "REGCRED_")) && !own[name] {
			steps.Note("%s is set here; the program has it only if the kubelet itself has", name)
		}
	}
	for _, variable := range e.Env {
		_ = os.Setenv(variable.Name, variable.Value)
	}
}

// CheckEntry returns what keeps the kubelet from starting with an entry, or from
// running this program for one of its images, before it is put into place.
func CheckEntry(entry kubelet.CredentialProvider) error {
	steps := &client.Steps{Out: io.Discard}
	(&providerEntry{CredentialProvider: entry}).check("", steps)
	if err := steps.FirstFailure(); err != nil {
		return err
	}
	for _, pattern := range entry.MatchImages {
		u, err := url.Parse("https://" + pattern)
		if err != nil {
			return err // which check has said
		}
		if advice := neverMatches(pattern, u); advice != "" {
			return &client.Failure{What: fmt.Sprintf("%q in matchImages never matches", pattern), Do: advice}
		}
	}
	return nil
}

// check says what keeps the kubelet from starting, or from running the program for
// an image.
func (e *providerEntry) check(image string, steps *client.Steps) {
	bad := func(what, do string) { steps.Fail("kubelet", &client.Failure{What: what, Do: do}) }
	if !isOurs(e.Name) || strings.ContainsAny(e.Name, "/ ") {
		bad(fmt.Sprintf("the name %s tells the program nothing", e.Name), fmt.Sprintf("call it %s, or %s-NAME", Program, Program))
	}
	if e.APIVersion != apiVersion {
		bad(fmt.Sprintf("apiVersion of the provider is %q, in which the kubelet passes no tokens", e.APIVersion), "write apiVersion: "+apiVersion)
	}
	if e.DefaultCacheDuration == nil {
		bad("defaultCacheDuration is missing: the kubelet does not start without it", "write defaultCacheDuration: 0s")
	} else if e.DefaultCacheDuration.Duration < 0 {
		bad("defaultCacheDuration is negative: the kubelet does not start with it", "write defaultCacheDuration: 0s")
	}
	e.checkTokens(bad, steps)
	e.checkImage(image, steps)
}

func (e *providerEntry) checkTokens(bad func(what, do string), steps *client.Steps) {
	a := e.TokenAttributes
	if a == nil {
		steps.Note("without tokenAttributes, the kubelet passes no token of a service account: every pod gets what node in kubelet.yaml says")
		return
	}
	if a.ServiceAccountTokenAudience == "" {
		bad("tokenAttributes.serviceAccountTokenAudience is missing: the kubelet does not start without it", "name the bound audience of the auth role, for example vault")
	}
	if a.RequireServiceAccount == nil {
		bad("tokenAttributes.requireServiceAccount is missing: the kubelet does not start without it", "write requireServiceAccount: true")
	}
	switch a.CacheType {
	case cacheByAccount:
	case cacheByToken:
		steps.Note("with cacheType Token, the kubelet keeps an answer for one pod only; with ServiceAccount, for all pods of a service account")
	default:
		bad(fmt.Sprintf("tokenAttributes.cacheType is %q: the kubelet does not start with it", a.CacheType), "write cacheType: "+cacheByAccount)
	}
	seen := map[string]bool{}
	for _, key := range slices.Concat(a.RequiredServiceAccountAnnotationKeys, a.OptionalServiceAccountAnnotationKeys) {
		switch {
		case seen[key] && slices.Contains(a.RequiredServiceAccountAnnotationKeys, key) && slices.Contains(a.OptionalServiceAccountAnnotationKeys, key):
			bad(fmt.Sprintf("tokenAttributes has the annotation %s as required and as optional: the kubelet does not start with both", key), "leave one out")
		case seen[key]:
			bad(fmt.Sprintf("tokenAttributes has the annotation %s twice: the kubelet does not start with both", key), "leave one out")
		case len(validation.IsQualifiedName(strings.ToLower(key))) > 0:
			bad(fmt.Sprintf("tokenAttributes has %q, which can be no annotation: the kubelet does not start with it", key), "write it as the service accounts have it, such as regcred.example.com/role")
		}
		seen[key] = true
	}
	if len(a.RequiredServiceAccountAnnotationKeys) > 0 && a.RequireServiceAccount != nil && !*a.RequireServiceAccount {
		bad("tokenAttributes has required annotations, and requireServiceAccount: false: the kubelet does not start with both", "make the annotations optional")
	}
}

// checkImage says whether the kubelet runs the program for an image.
func (e *providerEntry) checkImage(image string, steps *client.Steps) {
	matched := ""
	for _, pattern := range e.MatchImages {
		u, err := url.Parse("https://" + pattern)
		if err != nil {
			steps.Fail("matchImages", &client.Failure{What: fmt.Sprintf("%q is invalid: the kubelet does not start with it", pattern)})
		} else if advice := neverMatches(pattern, u); advice != "" {
			steps.Note("%q in matchImages never matches: %s", pattern, advice)
		} else if matched == "" && matchesURL(u.Host, strings.TrimPrefix(u.Path, "/"), image) {
			matched = pattern
		}
	}
	switch {
	case matched != "":
		steps.OK("matchImages", "%s is matched by %s", image, matched)
	case len(e.MatchImages) == 0:
		steps.Fail("kubelet", &client.Failure{What: "matchImages is empty: the kubelet does not start", Do: "name the registries"})
	case image == "":
		steps.Note("matchImages is not tried, because there is no -image")
	default:
		steps.Fail("matchImages", &client.Failure{
			What: fmt.Sprintf("none of %s matches %s, so the kubelet does not run the program", strings.Join(e.MatchImages, ", "), image),
			Do:   "add its registry, without a scheme and with the port that the image has; a * stands for one part of the host",
		})
	}
}

// neverMatches says what to write in place of an entry of matchImages with which the
// kubelet starts, and which no image has; "" if one can have it.
func neverMatches(pattern string, u *url.URL) string {
	switch {
	case strings.Contains(pattern, "://"):
		return "write it without a scheme"
	case strings.ContainsAny(u.Path, ":@"):
		return "write it without tag and digest"
	case isHub(u.Host) && u.Host != hubHost:
		return "write " + hubHost + ", as which images of Docker Hub are matched"
	case !strings.ContainsAny(u.Host, ".:") && u.Host != "localhost":
		return "write the host of the registry, " + hubHost + " for Docker Hub; a * stands for one part of it"
	}
	return ""
}

// checkProgram says whether the kubelet finds the program in its folder.
func (e *providerEntry) checkProgram(ctx context.Context, folder string, steps *client.Steps) {
	if folder == "" {
		steps.Note("the program is not looked for: give the kubelet's --%s too", binDirFlag)
		return
	}
	path := filepath.Join(folder, e.Name)
	if _, err := exec.LookPath(path); err != nil {
		do := "put regcred there under this name, as a copy or a symlink"
		if _, err := os.Stat(path); err == nil {
			do = "chmod 755 " + path
		}
		steps.Fail("program", &client.Failure{What: path + " is no program that can be run: the kubelet does not start", Do: do})
		return
	}
	if err := client.CheckPath(path); err != nil {
		steps.Fail("program", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, programLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "-version").Output() //nolint:gosec // the program that the kubelet runs
	version, _, _ := strings.Cut(string(out), "\n")
	if err != nil || version == "" {
		steps.Fail("program", &client.Failure{What: path + " does not run, or is another program", Do: "install the client for this machine's platform"})
		return
	}
	steps.OK("program", "%s, version %s", path, version)
}

// pass returns the annotations of a service account that the kubelet passes on.
func (e *providerEntry) pass(given map[string]string, chosenBy string, steps *client.Steps) map[string]string {
	passed := map[string]string{}
	if e.TokenAttributes == nil {
		return passed
	}
	keys := slices.Concat(e.TokenAttributes.RequiredServiceAccountAnnotationKeys, e.TokenAttributes.OptionalServiceAccountAnnotationKeys)
	if chosenBy != "" && !slices.Contains(keys, chosenBy) {
		steps.Fail("annotations", &client.Failure{
			What: fmt.Sprintf("kubelet.yaml chooses the role by the annotation %s, which the kubelet does not pass", chosenBy),
			Do:   "add it to optionalServiceAccountAnnotationKeys",
		})
	}
	for key, value := range given {
		if slices.Contains(keys, key) {
			passed[key] = value
		} else if key != chosenBy {
			steps.Note("the kubelet does not pass the annotation %s", key)
		}
	}
	for _, key := range e.TokenAttributes.RequiredServiceAccountAnnotationKeys {
		if _, has := given[key]; !has {
			steps.Fail("annotations", &client.Failure{
				What: fmt.Sprintf("the service account has no annotation %s, without which the kubelet does not run the program", key),
				Do:   "annotate it (and say so with -annotation), or move the key to optionalServiceAccountAnnotationKeys",
			})
		}
	}
	return passed
}

// checkToken says whether the kubelet runs the program with such a token, or
// without one.
func (e *providerEntry) checkToken(token string, a account, known bool, steps *client.Steps) {
	if e == nil || e.TokenAttributes == nil {
		return
	}
	switch required := e.TokenAttributes.RequireServiceAccount; {
	case !known && required != nil && *required:
		steps.Fail("token", &client.Failure{
			What: "the kubelet does not run the program for pods without a service account",
			Do:   "give -service-account; for static pods, set requireServiceAccount: false, and node in kubelet.yaml",
		})
	case token != "" && !slices.Contains(audiencesOf(token), e.TokenAttributes.ServiceAccountTokenAudience):
		steps.Fail("token", &client.Failure{
			What: fmt.Sprintf("it is for the audience %s, and the kubelet asks for tokens for %s", list(audiencesOf(token)), e.TokenAttributes.ServiceAccountTokenAudience),
			Do:   e.tokenCommand(a),
		})
	}
}

// tokenCommand makes a token such as the kubelet passes.
func (e *providerEntry) tokenCommand(a account) string {
	audience := "AUDIENCE"
	if e != nil && e.TokenAttributes != nil && e.TokenAttributes.ServiceAccountTokenAudience != "" {
		audience = e.TokenAttributes.ServiceAccountTokenAudience
	}
	return fmt.Sprintf("kubectl -n %s create token %s --audience=%s", a.namespace, a.name, audience)
}
