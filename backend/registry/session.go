// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"context"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// session is one verification.
type session struct {
	credential dockerconfig.Credential
	registry   name.Registry
	repository repository // zero: none to try
	scheme     string     // of the registry, set by connect

	guard  *guard
	opened *connections
}

func (v *Verifier) newSession(ctx context.Context, c dockerconfig.Credential) *session {
	inner, opened := v.newTransport(ctx)
	return &session{credential: c, guard: &guard{inner: inner}, opened: opened}
}

// secrets returns the texts that must not appear in a message.
func (s *session) secrets() []string {
	password := s.credential.Password.Reveal()
	pair := s.credential.Username + ":" + password
	texts := []string{password, pair, base64.StdEncoding.EncodeToString([]byte(pair))}
	for _, sent := range s.guard.sent {
		texts = append(texts, sent.Reveal())
	}
	return texts
}

// known returns the names that those who ask know. If one of them is the password, a
// message with that name must not say so.
func (s *session) known() []string {
	key := s.credential.Registry
	return append(s.repository.names(), s.credential.Username, string(key), key.ImageName(), key.Host())
}

func (s *session) verify(ctx context.Context, repository string) Result {
	var err error
	s.registry, s.repository, err = newTarget(s.credential.Registry, repository)
	if err != nil {
		return Result{Verdict: Unverified, Message: err.Error()}
	}
	challenge, err := s.connect(ctx)
	if err != nil {
		return s.toResult(err)
	}
	result := s.verifyPull
	if s.repository.path == "" {
		result = s.verifyCredential
	}
	return s.doubtRefusal(ctx, challenge, result(ctx, challenge))
}

// verifyCredential tries the credential as "docker login" does.
func (s *session) verifyCredential(ctx context.Context, challenge *transport.Challenge) Result {
	if isAnonymous(challenge) {
		return Result{Verdict: Unverified, Message: "the registry asks for no credential where no repository is named, so this one was not tried; name a repository to pull from"}
	}
	client, err := s.authenticate(ctx, challenge)
	if err == nil {
		err = s.get(ctx, client, s.url(""))
	}
	if err != nil {
		return s.toResult(err)
	}
	return Result{
		Verdict:  Unverified,
		Accepted: true,
		Message:  "the registry accepts the credential; whether it can pull was not tried, because no repository was named",
	}
}

// verifyPull pulls as a container runtime would.
func (s *session) verifyPull(ctx context.Context, challenge *transport.Challenge) Result {
	err := s.pullAs(ctx, challenge)
	if statusOf(err) == http.StatusUnauthorized {
		// Some registries require authentication only for a repository, or a scope
		// of their own for it. Runtimes follow that challenge too.
		if own, probeErr := s.probe(ctx, http.MethodHead, s.manifestURL(s.repository.reference())); probeErr == nil && s.differs(own, challenge) {
			challenge = own
			err = s.pullAs(ctx, challenge, own.Parameters["scope"])
		}
	}
	switch {
	case err != nil:
		return s.toResult(err)
	case isAnonymous(challenge):
		return Result{Verdict: OK, Message: "the registry asked for no credential, so this one was not tried"}
	}
	return Result{Verdict: OK}
}

func (s *session) pullAs(ctx context.Context, challenge *transport.Challenge, scopes ...string) error {
	scopes = slices.DeleteFunc(scopes, func(scope string) bool { return scope == "" || scope == s.pullScope() })
	client, err := s.authenticate(ctx, challenge, append(scopes, s.pullScope())...)
	if err != nil {
		return err
	}
	return s.pull(ctx, client)
}

func (s *session) pullScope() string {
	return s.registry.Repo(s.repository.path).Scope(transport.PullScope)
}

// differs reports whether the challenge for a manifest differs from the registry's
// own, so that following it may succeed.
func (s *session) differs(manifest, registry *transport.Challenge) bool {
	scope := manifest.Parameters["scope"]
	return scope != "" && scope != s.pullScope() ||
		!strings.EqualFold(manifest.Scheme, registry.Scheme) ||
		manifest.Parameters["realm"] != registry.Parameters["realm"]
}

func (s *session) authenticator() authn.Authenticator {
	return &authn.Basic{Username: s.credential.Username, Password: s.credential.Password.Reveal()}
}
