// SPDX-License-Identifier: MPL-2.0

// Package kubelet is the kubelet credential provider: it answers the kubelet's
// question for an image with the pull secret that the pod's service account may
// read in Vault.
package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	provider "k8s.io/kubelet/pkg/apis/credentialprovider/v1"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

const (
	apiVersion   = "credentialprovider.kubelet.k8s.io/v1"
	requestKind  = "CredentialProviderRequest"
	responseKind = "CredentialProviderResponse"

	// maxRequest is more than any request of a kubelet, in bytes.
	maxRequest = 1 << 20
)

// Serve answers the request on in. It writes the answer to out as a whole, or
// nothing if there is an error.
func Serve(ctx context.Context, program string, args []string, in io.Reader, out io.Writer) error {
	c, err := parseFlags(program, args, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout.Duration)
	defer cancel()
	answered := make(chan error, 1)
	var encoded []byte
	// Not even a read of the standard input may last longer than the time limit.
	go func() {
		defer func() {
			if recover() != nil {
				answered <- errPanicked
			}
		}()
		var err error
		encoded, err = c.answerEncoded(ctx, in)
		answered <- err
	}()
	select {
	case err = <-answered:
	case <-ctx.Done():
		select {
		case err = <-answered:
		case <-time.After(lastWord):
			err = &client.Failure{What: fmt.Sprintf("there was no answer within %s", c.Timeout.Duration)}
		}
	}
	switch {
	case errors.Is(err, errPanicked):
		panic(err)
	case err != nil:
		return err
	}
	if _, err := out.Write(encoded); err != nil {
		return &client.Failure{What: "the answer could not be written: the kubelet does not read it"}
	}
	return nil
}

// errPanicked stands for a panic of another goroutine, without its value: that may hold
// what was being worked on, and Go would print it.
var errPanicked = errors.New("the answer panicked")

// lastWord is how long a request that was cancelled has to say what it waited for.
const lastWord = 500 * time.Millisecond

func (c *config) answerEncoded(ctx context.Context, in io.Reader) ([]byte, error) {
	request, err := readRequest(in)
	if err != nil {
		return nil, err
	}
	response, err := c.answer(ctx, request)
	if err != nil {
		return nil, err
	}
	return json.Marshal(response)
}

// readRequest reads a request. Unknown fields are those of a newer kubelet.
func readRequest(in io.Reader) (*provider.CredentialProviderRequest, error) {
	var request provider.CredentialProviderRequest
	err := json.NewDecoder(io.LimitReader(in, maxRequest)).Decode(&request)
	switch {
	case err != nil || request.Kind != requestKind:
		return nil, &client.Failure{What: "the standard input holds no " + requestKind, Do: "this program is started by the kubelet; by hand, use \"regcred check kubelet\""}
	case request.APIVersion != apiVersion:
		return nil, &client.Failure{What: fmt.Sprintf("the kubelet asks in apiVersion %q", request.APIVersion), Do: "set apiVersion: " + apiVersion + " for this provider in the kubelet's configuration"}
	}
	return &request, nil
}

// answer finds the role, logs in, and reads the pull secret. An answer without
// entries says that this pod needs nothing from here.
func (c *config) answer(ctx context.Context, request *provider.CredentialProviderRequest) (*provider.CredentialProviderResponse, error) {
	login, chosen, err := c.plan(request)
	if err != nil {
		return nil, err
	}
	if chosen.role == "" {
		return c.response(client.PullSecret{}, 0), nil
	}
	secret, err := c.fetch(ctx, login, chosen.role, request.ServiceAccountToken)
	if err != nil {
		var f *client.Failure
		if errors.As(err, &f) {
			return nil, &client.Failure{What: fmt.Sprintf("role %s, chosen by %s: %s", chosen.role, chosen.by, f.What), Do: f.Do}
		}
		return nil, err
	}
	return c.response(secret, secret.CacheFor(c.MaxCacheDuration.Duration, time.Now())), nil
}

// plan returns how to log in, and which role to read. None is read where the
// choice has no role.
func (c *config) plan(request *provider.CredentialProviderRequest) (client.Auth, choice, error) {
	if request.ServiceAccountToken == "" {
		if c.Node == nil {
			return client.Auth{}, choice{}, nil
		}
		return c.Node.Auth, choice{c.Node.Role, "node"}, nil
	}
	a, err := accountOf(request.ServiceAccountToken)
	if err != nil {
		return client.Auth{}, choice{}, err
	}
	chosen := c.choose(a, request.ServiceAccountAnnotations, request.Image)
	if chosen.role != "" {
		if err := client.CheckRole(chosen.role); err != nil {
			return client.Auth{}, choice{}, &client.Failure{What: fmt.Sprintf("service account %s: %s: %s", a, chosen.by, client.Line(err))}
		}
	}
	return c.Auth, chosen, nil
}

func (c *config) fetch(ctx context.Context, login client.Auth, role, token string) (client.PullSecret, error) {
	vault, err := client.Open(c.Settings, login)
	if err != nil {
		return client.PullSecret{}, err
	}
	if _, err := vault.Login(ctx, login, token); err != nil {
		return client.PullSecret{}, err
	}
	return vault.Read(ctx, role)
}

// response has every registry of the pull secret, under the keys that it has
// there. What does not depend on the image is kept for all images.
func (c *config) response(secret client.PullSecret, cache time.Duration) *provider.CredentialProviderResponse {
	response := &provider.CredentialProviderResponse{
		TypeMeta:      metav1.TypeMeta{APIVersion: apiVersion, Kind: responseKind},
		CacheKeyType:  provider.GlobalPluginCacheKeyType,
		CacheDuration: &metav1.Duration{Duration: cache},
	}
	if c.dependsOnImage() {
		response.CacheKeyType = provider.ImagePluginCacheKeyType
	}
	for _, credential := range secret.Docker.Credentials() {
		if response.Auth == nil {
			response.Auth = map[string]provider.AuthConfig{}
		}
		response.Auth[string(credential.Registry)] = provider.AuthConfig{Username: credential.Username, Password: credential.Password.Reveal()}
	}
	return response
}
