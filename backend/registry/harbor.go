// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	harborService = "harbor-registry" // of Harbor's token server
	harborToken   = "/service/token"  // path of Harbor's token server
	harborAPI     = "/api/v2.0"
)

// harborNeeds are the components without which Harbor refuses every credential.
var harborNeeds = map[string]bool{"core": true, "database": true, "redis": true}

// HarborOutage returns why a Harbor that refused a credential may have refused any
// other too, "" if nothing suggests that. While its database is down, Harbor answers
// 401 to right passwords. get makes an unauthenticated GET request to a path below the
// API's, and returns an error if there is no answer.
func HarborOutage(get func(path string) (status int, body []byte, err error)) string {
	status, body, err := get("/health")
	switch {
	case err != nil:
		return "Harbor does not answer the question whether it is healthy"
	case status >= http.StatusInternalServerError:
		return fmt.Sprintf("Harbor answered %d to the question whether it is healthy", status)
	}
	var health struct {
		Components []struct {
			Name   string `json:"name"`
			Status string `json:"status"`
		} `json:"components"`
	}
	if json.Unmarshal(body, &health) == nil {
		for _, component := range health.Components {
			if harborNeeds[component.Name] && component.Status != "healthy" {
				return fmt.Sprintf("Harbor says that its component %s is unhealthy", component.Name)
			}
		}
	}
	// Harbor reads the state of its database only every 10 seconds. This call reads
	// the database itself.
	status, _, err = get("/projects?page=1&page_size=1")
	switch {
	case err != nil:
		return "Harbor does not answer the question for its public projects"
	case status >= http.StatusInternalServerError:
		return fmt.Sprintf("Harbor answered %d to the question for its public projects", status)
	}
	return ""
}

// doubtRefusal returns the result of a verification, changed if a Harbor refused the
// credential while it refuses all.
func (s *session) doubtRefusal(ctx context.Context, challenge *transport.Challenge, result Result) Result {
	api := harborOf(challenge)
	if result.Verdict != Denied || api == nil {
		return result
	}
	client := &http.Client{
		Transport:     s.guard,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	outage := HarborOutage(func(path string) (int, []byte, error) {
		path, query, _ := strings.Cut(path, "?")
		u := api.JoinPath(path)
		u.RawQuery = query
		resp, err := s.send(ctx, client, http.MethodGet, u)
		if err != nil {
			return 0, nil, err
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		return resp.StatusCode, body, err
	})
	if outage == "" {
		return result
	}
	return Result{
		Verdict: Unreachable,
		Message: fmt.Sprintf("%s, so that it refuses the credential proves nothing: %s", outage, result.Message),
	}
}

// harborOf returns the URL of the API of the Harbor that a challenge is from, nil if it
// is not from a Harbor.
func harborOf(challenge *transport.Challenge) *url.URL {
	realm, err := url.Parse(challenge.Parameters["realm"])
	if err != nil || realm.Host == "" || challenge.Parameters["service"] != harborService {
		return nil
	}
	base, found := strings.CutSuffix(realm.Path, harborToken)
	if !found {
		return nil
	}
	return &url.URL{Scheme: realm.Scheme, Host: realm.Host, Path: base + harborAPI}
}
