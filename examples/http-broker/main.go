// SPDX-License-Identifier: MPL-2.0

// Command http-broker speaks the protocol regcred-broker/v1 (docs/connections/http.md)
// for a registry whose users are in an htpasswd file, such as Distribution's. Each
// credential is a user of that file, with its ID and its end in a comment. Other lines of
// the file stay as they are. Copy it and change what makes and ends a credential.
package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

type broker struct {
	mu                         sync.Mutex
	htpasswd, tokens, registry string
}

// entry is a credential of ours, or, without an ID, another line of the file.
type entry struct {
	id, name, hash string
	ends           time.Time
	other          string
}

// object is a JSON object.
type object map[string]any

func no(status int, code, format string, args ...any) (int, object) {
	return status, object{"error": object{"code": code, "message": fmt.Sprintf(format, args...)}}
}

// load reads the file, without the credentials that have expired.
func (b *broker) load() (entries []entry, expired bool, err error) {
	text, err := os.ReadFile(b.htpasswd)
	if err != nil {
		return nil, false, err
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		e := entry{other: lines[i]}
		if about := strings.Fields(lines[i]); len(about) == 4 && about[1] == "regcred" && i+1 < len(lines) {
			i++
			e.id = about[2]
			e.name, e.hash, _ = strings.Cut(lines[i], ":")
			if e.ends, err = time.Parse(time.RFC3339, about[3]); err != nil {
				return nil, false, err
			}
			if !time.Now().Before(e.ends) {
				expired = true
				continue
			}
		}
		entries = append(entries, e)
	}
	return entries, expired, nil
}

func (b *broker) save(entries []entry) error {
	var text strings.Builder
	for _, e := range entries {
		if e.id == "" {
			fmt.Fprintln(&text, e.other)
		} else {
			fmt.Fprintf(&text, "# regcred %s %s\n%s:%s\n", e.id, e.ends.UTC().Format(time.RFC3339), e.name, e.hash)
		}
	}
	if err := os.WriteFile(b.htpasswd+".new", []byte(text.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(b.htpasswd+".new", b.htpasswd) // at once, so that nobody reads half of it
}

// ServeHTTP implements [http.Handler].
func (b *broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	status, answer := b.answer(r)
	answer["protocol"] = "regcred-broker/v1"
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

func (b *broker) answer(r *http.Request) (int, object) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	tokens, err := os.ReadFile(b.tokens)
	if err != nil { // it is not known who asks, so nobody is refused
		return no(http.StatusServiceUnavailable, "unavailable", "the tokens cannot be read")
	}
	known := strings.Fields(string(tokens)) // each is NAME:SHA256
	self := slices.IndexFunc(known, func(t string) bool { return strings.HasSuffix(t, fmt.Sprintf(":%x", sha256.Sum256([]byte(token)))) })
	if self < 0 {
		return no(http.StatusUnauthorized, "unauthorized", "the token is not known")
	}
	entries, _, err := b.load()
	if err != nil {
		return no(http.StatusServiceUnavailable, "unavailable", "the htpasswd file cannot be read")
	}
	name, id := r.URL.Query().Get("name"), r.URL.Query().Get("id")
	switch r.Method + " " + r.URL.Path {
	case "GET /v1":
		return http.StatusOK, object{"operations": []string{"mint", "find", "revoke", "check"}}
	case "GET /v1/check":
		who, _, _ := strings.Cut(known[self], ":")
		return http.StatusOK, object{"identity": who, "expires_at": nil}
	case "POST /v1/credentials":
		return b.mint(r, entries)
	case "GET /v1/credentials":
		found := []object{}
		for _, e := range entries {
			if e.name == name && e.id != "" {
				found = append(found, object{"name": e.name, "id": e.id})
			}
		}
		return http.StatusOK, object{"name": name, "credentials": found}
	case "DELETE /v1/credentials":
		left := slices.DeleteFunc(slices.Clone(entries), func(e entry) bool { return e.id != "" && e.id == id && e.name == name })
		if len(left) == len(entries) {
			return http.StatusNotFound, object{"name": name, "id": id, "error": object{"code": "not_found", "message": "there is none"}}
		}
		return done(b.save(left), http.StatusOK, object{"name": name, "id": id})
	}
	return no(http.StatusNotFound, "unsupported", "this broker has no %s %s", r.Method, r.URL.Path)
}

func done(err error, status int, answer object) (int, object) {
	if err != nil {
		return no(http.StatusInternalServerError, "failed", "a file cannot be written")
	}
	return status, answer
}

func (b *broker) mint(r *http.Request, entries []entry) (int, object) {
	var in struct {
		Name               string
		ExpiresAt          time.Time `json:"expires_at"`
		Scopes, Registries []string
	}
	switch err := json.NewDecoder(r.Body).Decode(&in); {
	case err != nil || in.Name == "" || strings.ContainsAny(in.Name, ": \t\r\n") || !in.ExpiresAt.After(time.Now()):
		return no(http.StatusBadRequest, "invalid", "name and expires_at, in the future, must be there")
	case len(in.Scopes) > 0: // what cannot be limited must not be promised
		return no(http.StatusBadRequest, "invalid", "scopes must be empty: a user in an htpasswd file may pull and push everything")
	case !slices.Equal(in.Registries, []string{b.registry}):
		return no(http.StatusBadRequest, "invalid", "registries: this broker mints for %s", b.registry)
	case slices.ContainsFunc(entries, func(e entry) bool { return e.name == in.Name || strings.HasPrefix(e.other, in.Name+":") }):
		return no(http.StatusConflict, "exists", "a user has this name")
	}
	password := rand.Text()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost) // 128 random bits need no more
	if err != nil {
		return done(err, 0, nil)
	}
	e := entry{id: rand.Text(), name: in.Name, hash: string(hash), ends: in.ExpiresAt}
	return done(b.save(append(entries, e)), http.StatusCreated,
		object{"name": e.name, "id": e.id, "username": e.name, "password": password, "expires_at": e.ends.UTC().Format(time.RFC3339)})
}

func main() {
	var b broker
	var listen, cert, key string
	flag.StringVar(&listen, "listen", "127.0.0.1:8099", "address to listen on")
	flag.StringVar(&cert, "tls-cert", "", "file with a certificate; without it, plain http, which the engine takes from its own machine only")
	flag.StringVar(&key, "tls-key", "", "file with the key of the certificate")
	flag.StringVar(&b.htpasswd, "htpasswd", "htpasswd", "file with the users of the registry")
	flag.StringVar(&b.tokens, "tokens", "tokens", "file with NAME:SHA256 of each token that may use the broker, one a line")
	flag.StringVar(&b.registry, "registry", "", "registry, as in image names")
	flag.Parse()
	go func() { // what has expired goes from the file even if nobody asks
		for range time.Tick(5 * time.Second) {
			b.mu.Lock()
			if entries, expired, err := b.load(); err == nil && expired {
				err = b.save(entries)
				log.Print("credentials have expired: ", err)
			}
			b.mu.Unlock()
		}
	}()
	server := &http.Server{Addr: listen, Handler: http.MaxBytesHandler(&b, 64<<10), ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
	if cert != "" {
		log.Fatal(server.ListenAndServeTLS(cert, key))
	}
	log.Fatal(server.ListenAndServe())
}
