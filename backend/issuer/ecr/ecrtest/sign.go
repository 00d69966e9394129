// SPDX-License-Identifier: MPL-2.0

package ecrtest

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// fault is an error of AWS. Its code depends on the protocol.
type fault struct {
	status        int
	query, json   string // the codes
	message       string
	messageHeader string // further lines, for a wrong signature
}

var (
	invalidToken = &fault{status: 403, query: "InvalidClientTokenId", json: "UnrecognizedClientException", message: "The security token included in the request is invalid."}
	expiredToken = &fault{status: 403, query: "ExpiredToken", json: "ExpiredTokenException", message: "The security token included in the request is expired"}
	noSignature  = &fault{status: 403, query: "MissingAuthenticationToken", json: "MissingAuthenticationTokenException", message: "Request is missing Authentication Token"}
)

func denied(who principal, action, resource string) *fault {
	return &fault{
		status: 403, query: "AccessDenied", json: "AccessDeniedException",
		message: fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s because no identity-based policy allows the %s action", who.arn, action, resource, action),
	}
}

// newKey creates a key whose ID begins with the kind: AKIA or ASIA.
func (s *Server) newKey(kind string) Key {
	s.keyCount++
	return Key{ID: fmt.Sprintf("%s%016d", kind, s.keyCount), Secret: rand.Text() + "/" + rand.Text(), Created: s.now().Truncate(time.Second)}
}

var authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=(\w+)/(\d{8})/([a-z0-9-]+)/([a-z-]+)/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})$`)

// authenticate returns the signer of a request to one of the services.
func (s *Server) authenticate(r *http.Request, service string) (principal, *fault) {
	found := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if found == nil || err != nil {
		return principal{}, noSignature
	}
	who, key, wrong := s.owner(found[1], r.Header.Get("X-Amz-Security-Token"))
	if wrong != nil {
		return principal{}, wrong
	}
	if skew := time.Since(at); skew > 15*time.Minute || skew < -15*time.Minute || at.Format("20060102") != found[2] {
		return principal{}, &fault{status: 403, query: "SignatureDoesNotMatch", json: "InvalidSignatureException", message: "Signature expired: " + at.String()}
	}
	if found[4] != service || signature(r, key, found, at) != found[6] {
		return principal{}, &fault{
			status: 403, query: "SignatureDoesNotMatch", json: "InvalidSignatureException",
			message: "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.",
			messageHeader: "\n\nThe Canonical String for this request should have been\n'POST\n/\n\nhost:" + r.Host +
				"\nx-amz-security-token:" + r.Header.Get("X-Amz-Security-Token") + "\n'",
		}
	}
	return who, nil
}

// owner returns the owner of an access key ID, and the key.
func (s *Server) owner(id, sessionToken string) (principal, aws.Credentials, *fault) {
	if found := s.sessions[id]; found != nil && found.token == sessionToken {
		if !found.expires.After(s.now()) {
			return principal{}, aws.Credentials{}, expiredToken
		}
		return found.principal, aws.Credentials{AccessKeyID: id, SecretAccessKey: found.secret, SessionToken: found.token}, nil
	}
	for name, u := range s.users {
		for _, key := range u.keys {
			if key.ID == id && sessionToken == "" {
				return s.userPrincipal(name), aws.Credentials{AccessKeyID: id, SecretAccessKey: key.Secret}, nil
			}
		}
	}
	return principal{}, aws.Credentials{}, invalidToken
}

func (s *Server) userPrincipal(name string) principal {
	arn := "arn:aws:iam::" + Account + ":user/" + name
	if name == "root" {
		arn = "arn:aws:iam::" + Account + ":root"
	}
	return principal{arn: arn, name: name, user: name, allow: func() []Statement { return s.users[name].allow }}
}

// signature computes the signature over the parts that the caller says it signed.
func signature(r *http.Request, key aws.Credentials, scope []string, at time.Time) string {
	body := peek(r)
	location := *r.URL
	location.Scheme, location.Host = "http", r.Host
	again := &http.Request{Method: r.Method, URL: &location, Host: r.Host, Header: http.Header{}}
	for name := range strings.SplitSeq(scope[5], ";") {
		switch name {
		case "host":
		case "content-length":
			again.ContentLength = int64(len(body))
		default:
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	sum := sha256.Sum256([]byte(body))
	if err := v4.NewSigner().SignHTTP(r.Context(), key, again, hex.EncodeToString(sum[:]), scope[4], scope[3], at); err != nil {
		return ""
	}
	_, signed, _ := strings.Cut(again.Header.Get("Authorization"), "Signature=")
	return signed
}

// peek returns the body of a request, and leaves it to be read again.
func peek(r *http.Request) string {
	body, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err != nil {
		return ""
	}
	return string(body)
}
