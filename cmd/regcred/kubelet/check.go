// SPDX-License-Identifier: MPL-2.0

package kubelet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	provider "k8s.io/kubelet/pkg/apis/credentialprovider/v1"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

// question is what "regcred check kubelet" is asked.
type question struct {
	image, account, tokenFile string
	annotations               map[string]string

	kubeletConfig, binDir, provider string // what the kubelet has; may be empty
}

func (q *question) flags(flags *flag.FlagSet) {
	flags.StringVar(&q.kubeletConfig, configFlag, "", "the kubelet's own `file` or folder, with which it runs this program: the flag has the kubelet's name for it")
	flags.StringVar(&q.binDir, binDirFlag, "", "the kubelet's `folder` of credential providers: as well")
	flags.StringVar(&q.provider, "provider", "", "`name` of the provider in the kubelet's file, if this program has several there")
	flags.StringVar(&q.image, "image", "", "`image` to pull, as in the pod")
	flags.StringVar(&q.account, "service-account", "", "`namespace/name` of the pod's service account")
	flags.StringVar(&q.tokenFile, "token-file", "", "`file` with a token of the service account, or - for the standard input")
	flags.Func("annotation", "`key=value` of the service account, as often as needed", func(text string) error {
		key, value, found := strings.Cut(text, "=")
		if !found {
			return errors.New("must be key=value")
		}
		q.annotations[key] = value
		return nil
	})
}

// Check does what the kubelet would have the provider do, and says how each step
// went.
func Check(ctx context.Context, program string, args []string, in io.Reader, steps *client.Steps) {
	q := question{annotations: map[string]string{}}
	if err := q.parse(program, args); err != nil {
		steps.Fail("configuration", err)
		return
	}
	passed, err := passedImage(q.image)
	if err != nil {
		steps.Fail("image", err)
		return
	}
	var entry *providerEntry
	if q.kubeletConfig != "" {
		if entry, err = loadEntry(q.kubeletConfig, q.provider); err != nil {
			steps.Fail("kubelet", err)
			return
		}
		steps.OK("kubelet", "%s, provider %s", entry.file, entry.Name)
		entry.check(q.image, steps)
		entry.checkProgram(ctx, q.binDir, steps)
		entry.useEnvironment(steps)
		// Flags of "check" go before those that the kubelet gives.
		program, args = entry.Name, slices.Concat(entry.Args, args)
	}
	c, err := parseFlags(program, args, q.flags)
	if err != nil {
		steps.Fail("configuration", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout.Duration)
	defer cancel()
	if c.path == "" {
		steps.OK("configuration", "from arguments and environment")
	} else {
		steps.OK("configuration", "%s", c.path)
	}
	request, err := q.request(in)
	if err != nil {
		steps.Fail("token", err)
		return
	}
	request.Image = passed
	if entry != nil {
		request.ServiceAccountAnnotations = entry.pass(q.annotations, c.Role.Annotation, steps)
		if entry.TokenAttributes == nil {
			q.account, request.ServiceAccountToken = "", ""
		}
	}
	c.checkRequest(ctx, q, entry, request, steps)
}

// parse reads what only the check is asked.
func (q *question) parse(program string, args []string) error {
	flags, _ := newFlags(program)
	q.flags(flags)
	if err := flags.Parse(args); err != nil {
		return flagFailure(err)
	}
	return nil
}

// passedImage returns an image as the kubelet passes it to the program: with its
// host, and without tag and digest.
func passedImage(image string) (string, error) {
	if image == "" {
		return "", nil
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", &client.Failure{
			What: fmt.Sprintf("%s is no image that a pod can have: %s", image, err),
			Do:   "write it as in the pod, such as ghcr.io/acme/app:1: without a scheme, and in lower case",
		}
	}
	return named.Name(), nil
}

// request is what the kubelet would ask, except for the image.
func (q question) request(in io.Reader) (*provider.CredentialProviderRequest, error) {
	request := &provider.CredentialProviderRequest{ServiceAccountAnnotations: q.annotations}
	var token []byte
	var err error
	switch q.tokenFile {
	case "":
		return request, nil
	case "-":
		token, err = io.ReadAll(io.LimitReader(in, maxRequest))
	default:
		token, err = os.ReadFile(q.tokenFile)
	}
	switch {
	case err != nil && claimsOf(q.tokenFile).Subject != "":
		return nil, &client.Failure{What: "-token-file is the token itself", Do: "write the token to the standard input, with -token-file=-"}
	case err != nil:
		return nil, &client.Failure{What: fmt.Sprintf("the token in %s cannot be read", q.tokenFile)}
	}
	request.ServiceAccountToken = strings.TrimSpace(string(token))
	return request, nil
}

func (c *config) checkRequest(ctx context.Context, q question, entry *providerEntry, request *provider.CredentialProviderRequest, steps *client.Steps) {
	a, known, err := q.checkAccount(request, steps)
	if err != nil {
		steps.Fail("token", err)
		return
	}
	entry.checkToken(request.ServiceAccountToken, a, known, steps)
	chosen, login := choice{}, c.Auth
	switch {
	case known:
		chosen = c.choose(a, request.ServiceAccountAnnotations, request.Image)
	case c.Node != nil:
		chosen, login = choice{c.Node.Role, "node"}, c.Node.Auth
	}
	if chosen.role == "" {
		steps.Fail("role", &client.Failure{
			What: "no role is chosen for this pod: the kubelet gets an answer without entries, and pulls without a credential of Vault",
			Do:   "check annotation, rules and template in the configuration",
		})
		return
	}
	if err := client.CheckRole(chosen.role); err != nil {
		steps.Fail("role", err)
		return
	}
	steps.OK("role", "%s, by %s", chosen.role, chosen.by)
	vault, err := client.Open(c.Settings, login)
	if err != nil {
		steps.Fail("Vault", err)
		return
	}
	if !client.CheckHealth(ctx, vault, steps) {
		return
	}
	if strings.HasPrefix(vault.Address(), "http://") {
		steps.Note("the address is http: tokens and passwords travel in the clear, unless Vault is on this machine")
	}
	if known && request.ServiceAccountToken == "" {
		steps.Fail("login", &client.Failure{
			What: "not tried, because there is no token of the service account",
			Do:   entry.tokenCommand(a) + " | regcred check kubelet --token-file=- …",
		})
		return
	}
	token, err := vault.Login(ctx, login, request.ServiceAccountToken)
	if err != nil {
		steps.Fail("login", err)
		return
	}
	steps.OK("login", "auth/%s, for %s, with the policies %s", login.Mount, token.Lifetime, strings.Join(token.Policies, ", "))
	if !token.Batch {
		steps.Note("it is no batch token, so Vault stores one for each run: set token_type=batch on the auth role")
	}
	secret, err := vault.Read(ctx, chosen.role)
	if err != nil {
		steps.Fail("read", err)
		return
	}
	steps.ShowPullSecret(vault, chosen.role, secret)
	c.checkImage(q.image, secret, steps)
	steps.OK("answer", "for the kubelet: %d registries, kept for %s by %s", len(secret.Docker.Keys()), secret.CacheFor(c.MaxCacheDuration.Duration, time.Now()), c.response(secret, 0).CacheKeyType)
}

// checkAccount returns the service account in question, and whether there is one.
func (q question) checkAccount(request *provider.CredentialProviderRequest, steps *client.Steps) (a account, known bool, err error) {
	if request.ServiceAccountToken != "" {
		if a, err = accountOf(request.ServiceAccountToken); err != nil {
			return account{}, false, err
		}
		if q.account != "" && q.account != a.String() {
			return account{}, false, &client.Failure{What: fmt.Sprintf("it is a token of %s, not of %s", a, q.account)}
		}
		steps.OK("token", "of service account %s", a)
		return a, true, nil
	}
	if q.account == "" {
		steps.OK("token", "none, as for a static pod")
		return account{}, false, nil
	}
	namespace, name, found := strings.Cut(q.account, "/")
	if !found || namespace == "" || name == "" {
		return account{}, false, &client.Failure{What: "service-account must be namespace/name"}
	}
	return account{namespace, name}, true, nil
}

// checkImage says whether the kubelet finds a credential for the image.
func (c *config) checkImage(image string, secret client.PullSecret, steps *client.Steps) {
	if image == "" {
		return
	}
	for _, key := range secret.Docker.Keys() {
		if covers(key, image) {
			steps.OK("image", "%s is pulled with the credential of %s", image, key)
			return
		}
	}
	steps.Fail("image", &client.Failure{
		What: fmt.Sprintf("the pull secret has no registry for %s: the kubelet pulls it without a credential of Vault", image),
		Do:   "put its registry into the role, or choose another role",
	})
}
