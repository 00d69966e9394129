// SPDX-License-Identifier: MPL-2.0

package issuer_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/ecr"
	"vault-plugin-secrets-regcred/backend/issuer/gitea"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab"
	"vault-plugin-secrets-regcred/backend/issuer/harbor"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// lister is a registry that answers lists as it likes.
type lister struct {
	kind       issuer.Type
	connection issuer.Connection

	// other answers a call that is not for a page; false if it is for one.
	other func(w http.ResponseWriter, r *http.Request) bool

	// entries are the entries of a page, and size is how many bytes each of them has.
	entries, size int

	// call makes the engine list.
	call func(*testing.T, *issuer.Client) error
}

func listers() map[string]lister {
	account := secretly("password", strings.Repeat("89abcdef", 5), issuer.Settings{"username": "alice"})
	robot := secretly("password", "Q7wKx2Zr9TbNm4Vc", issuer.Settings{"username": "robot$vault"})
	aws := secretly("secret_access_key", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY", issuer.Settings{"access_key_id": "AKIAIOSFODNN7EXAMPLE"})
	aws.Registries = []dockerconfig.Key{"123456789012.dkr.ecr.eu-central-1.amazonaws.com"}
	check := func(t *testing.T, c *issuer.Client) error {
		_, err := c.Check(t.Context())
		return err
	}
	none := func(http.ResponseWriter, *http.Request) bool { return false }
	return map[string]lister{
		"gitlab": {gitlab.Type(), secretly("token", "glpat-Q7wKx2Zr9TbNm4Vc", nil), none, 100, 30_000, func(t *testing.T, c *issuer.Client) error {
			_, err := c.Find(t.Context(), issuer.Settings{"project": "group/app"}, issuer.NewName("app"))
			return err
		}},
		"harbor": {harbor.Type(), robot, func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/users/current") {
				return false
			}
			w.WriteHeader(http.StatusPreconditionFailed) // not a user
			return true
		}, 10, 300_000, check},
		"gitea": {gitea.Type(), account, func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/user") {
				return false
			}
			fmt.Fprint(w, `{"id":5,"login":"alice"}`)
			return true
		}, 50, 4_000, check},
		"ecr": {ecr.Type(), aws, func(w http.ResponseWriter, r *http.Request) bool {
			switch r.PostFormValue("Action") {
			case "GetCallerIdentity":
				fmt.Fprint(w, `<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/regcred</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>`)
			case "ListAccessKeys":
				fmt.Fprint(w, `<ListAccessKeysResponse><ListAccessKeysResult><IsTruncated>true</IsTruncated><Marker>m</Marker><AccessKeyMetadata>`,
					strings.Repeat(`<member><AccessKeyId>AKIA`+strings.Repeat("x", 30_000)+`</AccessKeyId></member>`, 100), `</AccessKeyMetadata></ListAccessKeysResult></ListAccessKeysResponse>`)
			}
			return true
		}, 0, 0, func(t *testing.T, c *issuer.Client) error {
			_, err := c.PrepareRoot(t.Context(), issuer.NewName("root"))
			return err
		}},
	}
}

// start starts a registry whose pages never end, and opens a connection to it. served
// counts the bytes of its answers.
func (l lister) start(t *testing.T) (client *issuer.Client, served *atomic.Int64) {
	t.Helper()
	served = &atomic.Int64{}
	var last atomic.Int64 // ID
	return l.open(t, func(w http.ResponseWriter, r *http.Request) {
		counted := &countingWriter{w, served}
		if l.other(counted, r) {
			return
		}
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		w.Header().Set("X-Next-Page", strconv.Itoa(page+1))
		for i := range l.entries {
			separator := map[bool]string{true: "[", false: ","}[i == 0]
			fmt.Fprintf(counted, `%s{"id":%d,"name":"%s"}`, separator, last.Add(1), strings.Repeat("x", l.size))
		}
		fmt.Fprint(counted, "]")
	}), served
}

// open opens a connection to a registry with a handler.
func (l lister) open(t *testing.T, handle http.HandlerFunc) *issuer.Client {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	l.connection.URL, l.connection.HTTP, l.connection.Now = server.URL, issuer.NewHTTP(nil), time.Now
	client, err := issuer.Open(l.kind, l.connection)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

type countingWriter struct {
	http.ResponseWriter
	count *atomic.Int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.count.Add(int64(n))
	return n, err
}

// A registry may answer lists without an end, each page with other entries.
func TestListWithoutAnEndIsCutOff(t *testing.T) {
	const maxServed, maxHeap = 48 << 20, 100 << 20
	for name, l := range listers() {
		t.Run(name, func(t *testing.T) {
			client, served := l.start(t)
			peak := issuertest.PeakHeap(t, func() {
				err := l.call(t, client)
				if !issuer.IsError(err) || !strings.Contains(fmt.Sprint(err), "more than") {
					t.Errorf("want an error that says what there is more of, got %v", err)
				}
			})
			if n := served.Load(); n > maxServed {
				t.Errorf("read %d MiB, want at most %d", n>>20, maxServed>>20)
			}
			if peak > maxHeap {
				t.Errorf("the heap grew by %d MiB, want at most %d", peak>>20, maxHeap>>20)
			}
		})
	}
}

// In memory, an entry such as {} takes many times the bytes that it has in JSON.
func TestPageOfManySmallEntriesIsRefused(t *testing.T) {
	page := "[" + strings.Repeat("{},", 1_300_000) + "{}]"
	for name, l := range listers() {
		if name == "ecr" {
			continue // a page of one has its own limit
		}
		t.Run(name, func(t *testing.T) {
			client := l.open(t, func(w http.ResponseWriter, r *http.Request) {
				if !l.other(w, r) {
					fmt.Fprint(w, page)
				}
			})
			peak := issuertest.PeakHeap(t, func() {
				if err := l.call(t, client); !issuer.IsError(err) || !strings.Contains(err.Error(), "the answer ") {
					t.Errorf("want an error about the answer, got %v", err)
				}
			})
			if peak > 64<<20 {
				t.Errorf("the heap grew by %d MiB, want at most 64", peak>>20)
			}
		})
	}
}
