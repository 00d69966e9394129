// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// latest is the tag that is tried first if none is given.
const latest = "latest"

// acceptedManifests are the media types that container runtimes accept.
var acceptedManifests = strings.Join([]string{
	string(types.OCIImageIndex), string(types.OCIManifestSchema1),
	string(types.DockerManifestList), string(types.DockerManifestSchema2),
	string(types.DockerManifestSchema1), string(types.DockerManifestSchema1Signed),
}, ",")

// reference is the tag or digest to try first.
func (r repository) reference() string { return cmp.Or(r.digest, r.tag, latest) }

func (s *session) manifestURL(reference string) *url.URL {
	return s.url(s.repository.path + "/manifests/" + reference)
}

// pull asks for the manifest.
func (s *session) pull(ctx context.Context, client *http.Client) error {
	first := s.repository.reference()
	err := s.head(ctx, client, first)
	if statusOf(err) != http.StatusNotFound || s.repository.tag != "" || s.repository.digest != "" {
		return s.withMessage(ctx, client, first, err)
	}
	tag, err := s.anyTag(ctx, client)
	if err != nil {
		return err
	}
	return s.withMessage(ctx, client, tag, s.head(ctx, client, tag))
}

// head asks whether the manifest of a tag or digest can be pulled.
func (s *session) head(ctx context.Context, client *http.Client, reference string) error {
	resp, err := s.send(ctx, client, http.MethodHead, s.manifestURL(reference))
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		return err
	}
	if !isManifest(resp.Header) {
		return failf(Unreachable, "%s answered 200, but not with a manifest: there is no registry, or a proxy or login page in front of it", untrusted(resp.Request.URL.Host))
	}
	return nil
}

// isManifest tells a manifest from the page that a portal sends for any request.
func isManifest(header http.Header) bool {
	mediaType, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	mediaType = strings.ToLower(strings.TrimSpace(mediaType))
	return mediaType != "" && strings.Contains(acceptedManifests+",", mediaType+",") ||
		reference.DigestRegexp.MatchString(header.Get("Docker-Content-Digest"))
}

// withMessage repeats a failed HEAD request as GET, because only a body contains the
// registry's own message. It sends nothing more to a registry that answered 429.
func (s *session) withMessage(ctx context.Context, client *http.Client, reference string, err error) error {
	if status := statusOf(err); status == 0 || status == http.StatusTooManyRequests {
		return err
	}
	explained := s.get(ctx, client, s.manifestURL(reference))
	if known := (*failure)(nil); errors.As(explained, &known) && s.guard.status == statusOf(err) {
		return explained // why such an answer is not the registry's own
	}
	if statusOf(explained) != statusOf(err) {
		return err
	}
	if statusOf(explained) == http.StatusNotFound {
		return &failure{NotFound, s.describe(explained)}
	}
	return explained
}

// anyTag returns a tag of the repository.
func (s *session) anyTag(ctx context.Context, client *http.Client) (string, error) {
	list := s.url(s.repository.path + "/tags/list")
	list.RawQuery = "n=1"
	resp, err := s.send(ctx, client, http.MethodGet, list)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	err = transport.CheckError(resp, http.StatusOK)
	switch statusOf(err) {
	case http.StatusNotFound:
		return "", &failure{NotFound, s.describe(err)}
	case http.StatusUnauthorized, http.StatusForbidden:
		return "", failf(NotFound, "there is no tag %s, and the credential may not list the others; name a tag", latest)
	}
	if err != nil {
		return "", err
	}
	var answer struct {
		Tags []string `json:"tags"`
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", failf(Unreachable, "the registry's list of tags could not be understood")
	}
	if len(answer.Tags) == 0 {
		return "", failf(NotFound, "the repository %s has no tags", s.repository.path)
	}
	if tag := answer.Tags[0]; reference.TagRegexp.FindString(tag) == tag {
		return tag, nil
	}
	return "", failf(Unreachable, "the registry's list of tags could not be understood")
}

// get sends a GET request and checks the status of the answer.
func (s *session) get(ctx context.Context, client *http.Client, u *url.URL) error {
	resp, err := s.send(ctx, client, http.MethodGet, u)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return transport.CheckError(resp, http.StatusOK)
}

func (s *session) send(ctx context.Context, client *http.Client, method string, u *url.URL) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", acceptedManifests)
	return client.Do(req)
}
