// SPDX-License-Identifier: MPL-2.0

package importer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-regcred/backend/redact"
	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

const (
	// pageSize is how many Secrets the cluster is asked for at once. Each has at most
	// 1 MiB.
	pageSize = 100

	// pageTimeout is the time limit of one page. A login in a browser, which a
	// kubeconfig may ask for, is not done in it.
	pageTimeout = 2 * time.Minute

	// maxSaid is how many bytes of kubectl's messages are looked at.
	maxSaid = 64 << 10
)

// The types of Secrets that pods pull with, each with the field that it has.
var secretTypes = []struct{ name, field string }{
	{"kubernetes.io/dockerconfigjson", ".dockerconfigjson"},
	{"kubernetes.io/dockercfg", ".dockercfg"},
}

// secretList is what the API server answers with.
type secretList struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Continue string `json:"continue"`
	} `json:"metadata"`
	Items []struct {
		Metadata struct {
			Namespace       string `json:"namespace"`
			Name            string `json:"name"`
			OwnerReferences []struct {
				Kind       string `json:"kind"`
				Name       string `json:"name"`
				Controller bool   `json:"controller"`
			} `json:"ownerReferences"`
		} `json:"metadata"`
		Data map[string][]byte `json:"data"`
	} `json:"items"`
}

// readCluster reads the pull secrets of a cluster, and says where they are. It asks
// through kubectl, which knows every way to log in to a cluster.
func readCluster(ctx context.Context, o *options) ([]*source, string, error) {
	var sources []*source
	paths := []string{"/api/v1/secrets"}
	from := "all namespaces"
	if o.namespaces != nil {
		paths, from = nil, "namespaces "+few(cleaned(o.namespaces))
		slices.Sort(o.namespaces)
		for _, namespace := range slices.Compact(o.namespaces) {
			paths = append(paths, "/api/v1/namespaces/"+url.PathEscape(namespace)+"/secrets")
		}
	}
	if o.context != "" {
		from += " of " + redact.Clean(o.context)
	}
	for _, path := range paths {
		for _, t := range secretTypes {
			query := url.Values{"fieldSelector": {"type=" + t.name}, "limit": {fmt.Sprint(pageSize)}}
			if o.selector != "" {
				query.Set("labelSelector", o.selector)
			}
			for {
				list, err := o.page(ctx, path+"?"+query.Encode())
				if err != nil {
					return nil, "", err
				}
				for _, item := range list.Items {
					s := newSource(item.Metadata.Namespace + "/" + item.Metadata.Name)
					text, has := item.Data[t.field]
					switch {
					case !has:
						s.leaveOut("has no field " + t.field)
					case t.field == ".dockercfg":
						s.fromDockercfg(string(text))
					default:
						s.fromDocker(string(text))
					}
					for _, owner := range item.Metadata.OwnerReferences {
						if owner.Controller {
							s.note("a controller writes this Secret; its next change will not reach the role: %s %s", owner.Kind, owner.Name)
						}
					}
					sources = append(sources, s)
				}
				if list.Metadata.Continue == "" {
					break
				}
				query.Set("continue", list.Metadata.Continue)
			}
		}
	}
	slices.SortFunc(sources, func(a, b *source) int { return strings.Compare(a.name, b.name) })
	return sources, from, nil
}

// page asks the API server for one path.
func (o *options) page(ctx context.Context, path string) (*secretList, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	args := []string{"get", "--raw", path}
	if o.context != "" {
		args = append([]string{"--context=" + o.context}, args...)
	}
	cmd := exec.CommandContext(ctx, o.kubectl, args...) //nolint:gosec // the program is the caller's to choose
	cmd.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "VAULT_") || strings.HasPrefix(variable, "BAO_")
	})
	cmd.WaitDelay = time.Second
	var said capped
	cmd.Stderr = &said
	answer, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, &client.Failure{
			What: fmt.Sprintf("the program %s was not found, or cannot be started", redact.Clean(o.kubectl)),
			Do:   "the cluster is asked through kubectl: install it, or name it with -kubectl",
		}
	}
	var list secretList
	decoder := json.NewDecoder(answer)
	decodeErr := decoder.Decode(&list)
	_, _ = io.Copy(io.Discard, answer)
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return nil, o.kubectlFailure("", ctx.Err())
	case err != nil:
		return nil, o.kubectlFailure(string(said), err)
	case decodeErr != nil || list.Kind != "SecretList":
		return nil, &client.Failure{What: "the cluster did not answer with a list of Secrets", Do: o.advice()}
	}
	return &list, nil
}

// kubectlFailure says why kubectl failed, in words of ours: what it says may repeat
// what it was sent, or what it has received.
func (o *options) kubectlFailure(said string, err error) error {
	f := &client.Failure{Do: o.advice()}
	has := func(texts ...string) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(said, text) })
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		f.What = fmt.Sprintf("kubectl did not answer within %s", pageTimeout)
	case has("Forbidden", "forbidden"):
		f.What = "the cluster refuses: this user may not list Secrets there"
		f.Do = "ask for the rights that docs/client/import.md names, or read single namespaces with -namespace; " + f.Do
	case has("Unauthorized", "must be logged in"):
		f.What = "the cluster refuses: kubectl is not logged in"
	case has("context was not found", "does not exist"):
		f.What = "kubectl knows no such context"
		f.Do = "\"kubectl config get-contexts\" lists them"
	case has("refused", "no such host", "i/o timeout", "deadline exceeded", "unreachable", "EOF"):
		f.What = "the cluster does not answer"
	case has("x509", "certificate"):
		f.What = "the certificate of the cluster is not trusted"
	case has("too old", "Expired"):
		f.What = "the list of Secrets took too long"
		f.Do = "run it again"
	case has("unable to parse requirement", "Bad Request", "BadRequest"):
		f.What = "the cluster refuses -selector"
	default:
		f.What = "kubectl failed"
	}
	return f
}

// advice returns a command that shows the user what kubectl says, and no Secret.
func (o *options) advice() string {
	command := redact.Clean(o.kubectl) + " "
	if o.context != "" {
		command += "--context=" + redact.Clean(o.context) + " "
	}
	return fmt.Sprintf("see what \"%sauth can-i list secrets --all-namespaces\" says", command)
}

// capped keeps the beginning of what is written.
type capped []byte

func (c *capped) Write(b []byte) (int, error) {
	*c = append(*c, b[:min(len(b), maxSaid-len(*c))]...)
	return len(b), nil
}

func cleaned(all []string) []string {
	shown := make([]string, len(all))
	for i, s := range all {
		shown[i] = redact.Clean(s)
	}
	return shown
}
