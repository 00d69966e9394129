// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	dockercli "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/credentials"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"sigs.k8s.io/yaml"

	"vault-plugin-secrets-regcred/tests/clients"
)

// The tools of this file do not ask Vault. They take a pull secret that another
// tool has put into the cluster, except Renovate, which takes no pull secret at
// all.

const exampleSecretName = "app/regcred" // namespace/name

func exampleLogin() clients.Login {
	return clients.Login{Username: exampleUsername, Password: examplePassword}
}

// TestFlux reads pull secrets with the code of Flux: the types of its API
// (source-controller 1.9, image-reflector-controller 1.2), and the keychain of
// both controllers.
func TestFlux(t *testing.T) {
	c := newConsumer(t, "flux")
	config := c.pullSecret("my_app")
	for file, read := range map[string]map[string]string{
		"imagerepository.yaml": {
			"kind": "ImageRepository", "namespace": "app", "name": "app", "secret": "regcred",
			"interval": "5m0s", "repository": exampleRegistry + "/team/app", "tag": "",
		},
		"ocirepository.yaml": {
			"kind": "OCIRepository", "namespace": "app", "name": "manifests", "secret": "regcred",
			"interval": "5m0s", "repository": exampleRegistry + "/team/manifests", "tag": "latest",
		},
	} {
		c.asksReader("read-flux", file, clients.LookUp{Config: config}, clients.Found{Credentials: []clients.Login{exampleLogin()}, Read: read})
	}

	c.otherRoles()
	hub := c.pullSecret("hub")
	var questions []clients.LookUp
	addresses := []string{"docker.io/acme/app", "index.docker.io/acme/app", "acme/app", "registry-1.docker.io/acme/app"}
	for _, address := range addresses {
		questions = append(questions, clients.LookUp{Config: hub, Secret: exampleSecretName, Manifest: imageRepository(address)})
	}
	found := map[string]bool{}
	for i, answer := range clients.Ask(t, "read-flux", questions) {
		if answer.Error != "" {
			t.Fatalf("%s: %s", addresses[i], answer.Error)
		}
		found[addresses[i]] = slices.Equal([]clients.Login{{Username: "acme", Password: "s3cr3t"}}, answer.Credentials)
	}
	want := map[string]bool{"docker.io/acme/app": true, "index.docker.io/acme/app": true, "acme/app": true, "registry-1.docker.io/acme/app": false}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("addresses under which Flux finds Docker Hub's credential (-want +got):\n%s", diff)
	}

	// A HelmRepository of the type oci, as KeychainFromSecret in
	// internal/helm/registry/auth.go of source-controller.
	file, err := dockercli.LoadFromReader(strings.NewReader(hub))
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{"index.docker.io": true, "registry-1.docker.io": false, "docker.io": false} {
		auth, err := file.GetAuthConfig(host)
		if got := credentials.ConvertToHostname(auth.ServerAddress) == host && auth.Password != ""; err != nil || got != want {
			t.Errorf("a chart at oci://%s: want found %t, got %+v, %v", host, want, auth, err)
		}
	}
}

// asksReader asks a reader with a file of the example, and checks that each word
// of the file makes a difference.
func (c *consumer) asksReader(reader, file string, question clients.LookUp, want clients.Found) {
	c.Helper()
	files := c.examples(file)
	question.Secret, question.Manifest = exampleSecretName, files[file]
	questions := []clients.LookUp{question}
	all := changes(files[file])
	for _, change := range all {
		question.Manifest = change.content
		questions = append(questions, question)
	}
	answers := clients.Ask(c, reader, questions)
	if diff := cmp.Diff(want, answers[0]); diff != "" {
		c.Errorf("examples/%s/%s (-want +got):\n%s", c.tool, file, diff)
	}
	for i, answer := range answers[1:] {
		if cmp.Equal(want, answer) {
			c.Errorf("examples/%s/%s: no difference %s", c.tool, file, all[i].what)
		}
	}
}

// imageRepository is an ImageRepository of Flux that names the example's Secret.
func imageRepository(address string) string {
	return fmt.Sprintf(`{apiVersion: image.toolkit.fluxcd.io/v1, kind: ImageRepository,
metadata: {name: app, namespace: app}, spec: {image: %q, interval: 5m, secretRef: {name: regcred}}}`, address)
}

// TestArgoCDImageUpdater reads pull secrets with the code of Argo CD Image
// Updater (its registry-scanner 1.2.1).
func TestArgoCDImageUpdater(t *testing.T) {
	c := newConsumer(t, "argocd-image-updater")
	c.otherRoles()
	const reader = "read-image-updater"
	c.asksReader(reader, "config.yaml", clients.LookUp{Config: c.pullSecret("my_app"), Image: exampleRegistry + "/team/app:1.4"}, clients.Found{
		Credentials: []clients.Login{exampleLogin()},
		Read: map[string]string{
			"configmap": "argocd/argocd-image-updater-config", "name": "GitLab", "prefix": exampleRegistry,
			"api_url": "https://" + exampleRegistry, "credsexpire": "1m0s", "defaultns": "",
		},
	})
	hub := c.pullSecret("hub")
	asHub := clients.Found{
		Credentials: []clients.Login{{Username: "acme", Password: "s3cr3t"}},
		Read: map[string]string{
			"configmap": "argocd/argocd-image-updater-config", "name": "Docker Hub", "prefix": "docker.io",
			"api_url": "https://index.docker.io", "credsexpire": "1m0s", "defaultns": "library",
		},
	}
	for _, image := range []string{"acme/app:1.4", "docker.io/acme/app:1.4"} {
		file := c.examples("docker-hub.yaml")["docker-hub.yaml"]
		got := clients.Ask(t, reader, []clients.LookUp{{Config: hub, Secret: exampleSecretName, Manifest: file, Image: image}})
		if diff := cmp.Diff(asHub, got[0]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", image, diff)
		}
	}
	c.asksReader(reader, "docker-hub.yaml", clients.LookUp{Config: hub, Image: "acme/app:1.4"}, asHub)

	// Without the file, the built-in address of Docker Hub finds nothing.
	got := clients.Ask(t, reader, []clients.LookUp{{Config: hub, Secret: exampleSecretName, Image: "docker.io/acme/app:1.4"}})
	want := clients.Found{Error: "no valid auth entry for registry https://registry-1.docker.io found in image pull secret"}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Errorf("with the built-in address of Docker Hub (-want +got):\n%s", diff)
	}
}

// TestTrivyOperator follows aquasecurity/trivy-operator 0.32, whose module is
// not available.
func TestTrivyOperator(t *testing.T) {
	c := newConsumer(t, "trivy-operator")
	c.otherRoles()
	use := func(files map[string]string) error {
		// Values of its chart. The chart hands the map to the operator as JSON
		// (templates/configmaps/trivy-operator-config.yaml).
		var values struct {
			Operator struct {
				PrivateRegistryScanSecretsNames map[string]string `json:"privateRegistryScanSecretsNames"`
			} `json:"operator"`
		}
		if err := yaml.UnmarshalStrict([]byte(files["values.yaml"]), &values); err != nil {
			return err
		}
		// As GetSecretsFromEnv in pkg/kube/secrets.go. A Secret that is not found
		// is left out.
		for namespace, names := range values.Operator.PrivateRegistryScanSecretsNames {
			for name := range strings.SplitSeq(names, ",") {
				if strings.TrimSpace(namespace)+"/"+strings.TrimSpace(name) != exampleSecretName {
					continue
				}
				logins, err := trivyAuths(c.pullSecret("my_app"))
				if err != nil {
					return err
				}
				return want("credential", exampleLogin(), logins[exampleRegistry])
			}
		}
		return errors.New("no Secret")
	}
	files := c.examples("values.yaml")
	if err := use(files); err != nil {
		t.Errorf("with the example as it stands: %v", err)
	}
	c.everyWordCounts(files, use)

	for image, role := range map[string]string{"busybox": "hub", "docker.io/acme/app": "hub", "quay.io/acme/app": "expiring", "b.example.com/app": "two"} {
		logins, err := trivyAuths(c.pullSecret(role))
		if err != nil {
			t.Fatal(err)
		}
		// As GetServerFromImageRef in pkg/docker/config.go.
		ref, err := name.ParseReference(image)
		if err != nil {
			t.Fatal(err)
		}
		if logins[ref.Context().RegistryStr()].Password == "" {
			t.Errorf("%s: want a credential from the role %s, got none of %v", image, role, slices.Collect(maps.Keys(logins)))
		}
	}

	// Two keys of one host become one credential that Trivy splits at commas.
	write(t, c.vault.Client, "regcred/roles/paths", fields{"dockerconfigjson": `{"auths":{"a.example.com/x":{"auth":"Ym90OnQwazNu"},"a.example.com/y":{"auth":"Ym90OnQwazNu"}}}`})
	logins, err := trivyAuths(c.pullSecret("paths"))
	if diff := cmp.Diff(map[string]clients.Login{"a.example.com": {Username: "bot,bot", Password: "t0k3n,t0k3n"}}, logins); diff != "" || err != nil {
		t.Errorf("two keys of one host: %v (-want +got):\n%s", err, diff)
	}
}

// trivyAuths returns the credentials by host, as MapDockerRegistryServersToAuths
// in pkg/kube/secrets.go and Read in pkg/docker/config.go.
func trivyAuths(config string) (map[string]clients.Login, error) {
	var file struct {
		Auths map[string]struct {
			Auth []byte `json:"auth"`
		} `json:"auths"`
	}
	if err := json.Unmarshal([]byte(config), &file); err != nil {
		return nil, err
	}
	logins := map[string]clients.Login{}
	for key, entry := range file.Auths {
		if !strings.HasPrefix(key, "http://") && !strings.HasPrefix(key, "https://") {
			key = "https://" + key
		}
		parsed, err := url.Parse(key)
		if err != nil {
			return nil, err
		}
		username, password, _ := strings.Cut(string(entry.Auth), ":")
		if other, found := logins[parsed.Host]; found {
			username, password = other.Username+","+username, other.Password+","+password
		}
		logins[parsed.Host] = clients.Login{Username: username, Password: password}
	}
	return logins, nil
}

// TestRenovate follows renovatebot/renovate 44.39, which is not a Go module.
func TestRenovate(t *testing.T) {
	c := newConsumer(t, "renovate")
	c.does("policy.hcl", []string{"externalsecret.yaml", "cronjob.yaml"}, func(r *attempt) error {
		var external struct {
			object
			Spec struct {
				RefreshInterval string `json:"refreshInterval"`
				SecretStoreRef  struct {
					Name string `json:"name"`
				} `json:"secretStoreRef"`
				Target struct {
					Template struct {
						Data map[string]string `json:"data"`
					} `json:"template"`
				} `json:"target"`
				DataFrom []struct {
					Extract struct {
						Key string `json:"key"`
					} `json:"extract"`
				} `json:"dataFrom"`
			} `json:"spec"`
		}
		type variable struct {
			Name  string `json:"name"`
			Value string `json:"value"`
		}
		type source struct {
			SecretRef struct {
				Name string `json:"name"`
			} `json:"secretRef"`
		}
		var job struct {
			object
			Spec struct {
				Schedule          string `json:"schedule"`
				ConcurrencyPolicy string `json:"concurrencyPolicy"`
				JobTemplate       struct {
					Spec struct {
						Template struct {
							Spec struct {
								RestartPolicy string `json:"restartPolicy"`
								Containers    []struct {
									Name    string     `json:"name"`
									Image   string     `json:"image"`
									Env     []variable `json:"env"`
									EnvFrom []source   `json:"envFrom"`
								} `json:"containers"`
							} `json:"spec"`
						} `json:"template"`
					} `json:"spec"`
				} `json:"jobTemplate"`
			} `json:"spec"`
		}
		if err := errors.Join(r.parse("externalsecret.yaml", &external), r.parse("cronjob.yaml", &job),
			external.is("external-secrets.io/v1", "ExternalSecret"), job.is("batch/v1", "CronJob")); err != nil {
			return err
		}
		pod := job.Spec.JobTemplate.Spec.Template.Spec
		if len(external.Spec.DataFrom) != 1 || len(pod.Containers) != 1 || len(pod.Containers[0].EnvFrom) != 1 {
			return errors.New("something is missing")
		}
		container := pod.Containers[0]
		if err := errors.Join(
			want("Secret", metadata{Name: container.EnvFrom[0].SecretRef.Name, Namespace: job.Metadata.Namespace}, external.Metadata),
			want("job", metadata{Name: "renovate", Namespace: "app"}, job.Metadata),
			want("store", "regcred 1m", external.Spec.SecretStoreRef.Name+" "+external.Spec.RefreshInterval),
			want("schedule", "@hourly Forbid Never", strings.Join([]string{job.Spec.Schedule, job.Spec.ConcurrencyPolicy, pod.RestartPolicy}, " ")),
			want("container", "renovate renovate/renovate:44.39.2", container.Name+" "+container.Image),
			want("variables", []variable{{"RENOVATE_DETECT_HOST_RULES_FROM_ENV", "true"}}, container.Env)); err != nil {
			return err
		}
		// The store of docs/consumers/external-secrets.md puts its path in front.
		response, err := r.get("regcred/"+external.Spec.DataFrom[0].Extract.Key, nil)
		if err != nil {
			return err
		}
		if response == nil {
			return errors.New("no such role")
		}
		environment := map[string]string{}
		for variable, text := range external.Spec.Target.Template.Data {
			parsed, err := template.New(variable).Option("missingkey=error").Parse(text)
			if err != nil {
				return err
			}
			var made strings.Builder
			if err := parsed.Execute(&made, response.Data); err != nil {
				return err
			}
			environment[variable] = made.String()
		}
		rules := renovateHostRules(environment)
		wanted := map[string]map[string]string{exampleRegistry: {"username": exampleUsername, "password": examplePassword}}
		return want("host rules", wanted, rules)
	})
	c.Run("Docker Hub", func(t *testing.T) {
		// As isDockerHost in lib/modules/datasource/docker/common.ts and
		// matchesHost in lib/util/host-rules.ts: Renovate asks
		// index.docker.io, which a rule for docker.io matches.
		for host := range renovateHostRules(map[string]string{"RENOVATE_DOCKER_DOCKER_IO_USERNAME": "acme", "RENOVATE_DOCKER_DOCKER_IO_PASSWORD": "s3cr3t"}) {
			if asked := "index.docker.io"; asked != host && !strings.HasSuffix(asked, "."+host) {
				t.Errorf("a rule for %s does not match %s", host, asked)
			}
		}
	})
}

var renovateVariable = regexp.MustCompile(`^(?:renovate_)?docker_(.+)_(username|password)$`)

// renovateHostRules returns the rules for registries, by host, as
// hostRulesFromEnv in lib/workers/global/config/parse/host-rules-from-env.ts.
func renovateHostRules(environment map[string]string) map[string]map[string]string {
	rules := map[string]map[string]string{}
	for variable, value := range environment {
		match := renovateVariable.FindStringSubmatch(strings.ReplaceAll(strings.ToLower(variable), "__", "-"))
		if match == nil {
			continue
		}
		host := strings.ReplaceAll(match[1], "_", ".")
		if rules[host] == nil {
			rules[host] = map[string]string{}
		}
		rules[host][match[2]] = value
	}
	return rules
}

// TestDockerHubKeys asks each reader for each key that people write for Docker
// Hub, and compares the answers with the table of
// docs/consumers/kubelet-and-runtimes.md. It is not parallel, as
// TestEveryReaderFindsTheCredential.
func TestDockerHubKeys(t *testing.T) {
	text := page(t, "kubelet-and-runtimes.md")
	columns := [][]string{{"kubelet"}, {"docker", "go-containerregistry"}, {"containers"}, {"flux"}}
	for _, key := range []string{"https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"} {
		config := fmt.Sprintf(`{"auths":{%q:{"auth":"YWNtZTpzM2NyM3Q="}}}`, key)
		row := []string{"`" + key + "`"}
		for _, column := range columns {
			said := ""
			for _, reader := range column {
				answer := readers[reader](t, []clients.LookUp{{Config: config, Image: "docker.io/acme/app"}})[0]
				says := "no"
				if answer.Error == "" && len(answer.Credentials) > 0 {
					says = "yes"
				}
				if said != "" && said != says {
					t.Errorf("%s: %v do not agree", key, column)
				}
				said = says
			}
			row = append(row, said)
		}
		updater := "no"
		for _, address := range []string{"https://registry-1.docker.io", "https://index.docker.io"} {
			manifest := fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, data: {registries.conf: '{registries: [{name: hub, prefix: docker.io, api_url: %q, credentials: "pullsecret:app/regcred"}]}'}}`, address)
			answer := clients.Ask(t, "read-image-updater", []clients.LookUp{{Config: config, Secret: exampleSecretName, Manifest: manifest, Image: "docker.io/acme/app"}})[0]
			if len(answer.Credentials) > 0 {
				updater = "with `api_url: " + address + "`"
				if address == "https://registry-1.docker.io" {
					updater = "yes"
					break
				}
			}
		}
		if line := "| " + strings.Join(append(row, updater), " | ") + " |\n"; !strings.Contains(text, line) {
			t.Errorf("docs/consumers/kubelet-and-runtimes.md does not have the line %s", line)
		}
	}
}
