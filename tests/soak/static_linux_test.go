// SPDX-License-Identifier: MPL-2.0

package soak

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
)

// login is a credential of a static role.
type login struct{ username, password, email string }

// configJSON returns the JSON that a pull secret must have, for logins by
// registry key.
func configJSON(logins map[string]login) string {
	type entry struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Email    string `json:"email,omitempty"`
		Auth     string `json:"auth"`
	}
	auths := map[string]entry{}
	for key, l := range logins {
		auths[key] = entry{l.username, l.password, l.email, l.auth()}
	}
	return encoded(map[string]any{"auths": auths})
}

// authOnly returns the JSON that creds/<role>/docker must have.
func authOnly(logins map[string]login) string {
	auths := map[string]map[string]string{}
	for key, l := range logins {
		auths[key] = map[string]string{"auth": l.auth()}
	}
	return encoded(map[string]any{"auths": auths})
}

func encoded(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func (l login) auth() string {
	return base64.StdEncoding.EncodeToString([]byte(l.username + ":" + l.password))
}

// The forms of creds/.
var forms = []string{"", "/kubernetes", "/docker"}

// form returns the fields that a form of creds/ must have for a pull secret.
func form(name string, logins map[string]login) map[string]any {
	switch config := configJSON(logins); name {
	case "/kubernetes":
		return map[string]any{".dockerconfigjson": config}
	case "/docker":
		return map[string]any{"config.json": authOnly(logins)}
	default:
		return map[string]any{".dockerconfigjson": config, "dockerconfigjson": base64.StdEncoding.EncodeToString([]byte(config))}
	}
}

// same compares the fields of an answer. Numbers are strings in it.
func same(got, want map[string]any) bool { return reflect.DeepEqual(got, want) }

// static is a static role that its writer changes all the time.
type static struct {
	name     string
	registry string // as in image names
	key      string // under auths
	*history[staticState]
}

type staticState struct {
	exists bool
	login
	joins bool // its allowed_bundles names the bundles
}

func newStatic(name, registry, key string) *static {
	return &static{name, registry, key, newHistory(staticState{})}
}

// creds returns what a form of creds/ must answer; nil is status 404.
func (s staticState) creds(role *static, name string) map[string]any {
	if !s.exists {
		return nil
	}
	want := form(name, map[string]login{role.key: s.login})
	if name == "" {
		want["registry"], want["username"], want["password"] = role.registry, s.username, s.password
	}
	return want
}

const allBundles = "pair,trio,varied"

func (s staticState) bundles() string {
	if s.joins {
		return allBundles
	}
	return ""
}

// newPassword returns a password with characters that encodings get wrong.
func (w *worker) newPassword() string {
	odd := []string{`"`, `\`, "<", ">", "&", ":", "é", "😀", " ", "%", "\n", "'"}
	text := fmt.Sprintf("%08x", w.Uint32())
	for range w.IntN(4) {
		text += pick(w, odd) + "x"
	}
	return text
}

// change changes one of the worker's static roles.
func (w *worker) change(role *static) {
	now, certain := role.last()
	switch {
	case !certain || !now.exists && !w.oneIn(5):
		w.writeWhole(role)
		return
	case !now.exists:
		w.patch("patch of no role", "roles/"+role.name, map[string]any{"password": "x"}, refusal{http.StatusNotFound, "does not exist"})
		return
	}
	next := now
	what := w.IntN(20)
	if !now.joins && w.oneIn(2) {
		what = 10 // join again soon, or bundles would be refused most of the time
	}
	switch what / 2 {
	case 0, 1, 2:
		next.password = w.newPassword()
		w.store(role, next, func() answer {
			return w.write("write of a password", "roles/"+role.name, map[string]any{"password": next.password})
		})
	case 3, 4:
		next.password, next.email = w.newPassword(), pick(w, []string{"", "ops@example.com"})
		w.store(role, next, func() answer {
			var email any
			if next.email != "" {
				email = next.email
			}
			return w.patch("patch of a role", "roles/"+role.name, map[string]any{"password": next.password, "email": email})
		})
	case 5:
		next.joins = !now.joins
		w.store(role, next, func() answer {
			return w.patch("patch of allowed_bundles", "roles/"+role.name, map[string]any{"allowed_bundles": next.bundles()})
		})
	case 6:
		if what%2 == 0 {
			return // seldom
		}
		w.store(role, staticState{}, func() answer { return w.remove("delete of a role", "roles/"+role.name) })
	case 7:
		bad := pick(w, []map[string]any{{"pasword": "x"}, {"username": "a:b"}, {"registry": "a b"}, {"members": "pair"}, {"expires_at": "soon"}})
		a := w.write("write that is refused", "roles/"+role.name, bad, refusal{http.StatusBadRequest, ""})
		if a.outcome == acknowledged {
			w.wrong("role %s: %v is accepted", role.name, bad)
		}
	case 8:
		w.writeWhole(role)
	case 9:
		w.readBack(role, now)
	}
}

// store writes a state and records it.
func (w *worker) store(role *static, next staticState, send func() answer) {
	role.write(next, func() outcome { return send().outcome })
}

// writeWhole writes all fields of a role, whether it exists or not.
func (w *worker) writeWhole(role *static) {
	next := staticState{exists: true, login: login{fmt.Sprintf("robot%d", w.IntN(100)), w.newPassword(), ""}, joins: !w.oneIn(8)}
	w.store(role, next, func() answer {
		return w.write("write of a role", "roles/"+role.name, map[string]any{
			"registry": role.registry, "username": next.username, "password": next.password, "email": "", "allowed_bundles": next.bundles(),
		})
	})
}

// readBack reads the fields of a role whose state the worker knows.
func (w *worker) readBack(role *static, now staticState) {
	a := w.read("read of a role", "roles/"+role.name)
	if a.outcome != acknowledged {
		return
	}
	want := map[string]any{"type": "static", "registry": role.registry, "registries": []any{role.key}, "username": now.username}
	if now.email != "" {
		want["email"] = now.email
	}
	if now.joins {
		want["allowed_bundles"] = []any{"pair", "trio", "varied"}
	}
	got := maps.Clone(a.data())
	delete(got, "updated_at")
	delete(got, "used_by") // the bundles are written by other workers
	if !same(got, want) {
		w.wrong("role %s: want %v, got %v", role.name, want, got)
	}
}

// readStatic reads a static role in one of the forms.
func (w *worker) readStatic(role *static) {
	name, oldest := pick(w, forms), role.sent()
	a := w.read("read of a static role", "creds/"+role.name+name)
	if a.outcome != acknowledged {
		return
	}
	got := a.data()
	if !role.saw(oldest, func(s staticState) bool { return same(got, s.creds(role, name)) }) {
		w.wrong("creds/%s%s, read from %s to %s: %v is older than what was acknowledged, or was never written", role.name, name, stamp(a.sent), stamp(a.got), a)
	}
}

func stamp(t time.Time) string { return t.UTC().Format("15:04:05.000") }

// bundle is a bundle of static roles, and perhaps a shared one.
type bundle struct {
	name               string
	statics            map[string]*static // static roles that it may join, by name
	shared             *sharedRole        // the shared role that it joins, if any
	*history[[]string]                    // names of the static roles that it joins
}

// readBundle reads a bundle. It must consist of possible states of its members,
// or be refused if a member was missing or did not allow it.
func (w *worker) readBundle(b *bundle) {
	name, oldest := pick(w, forms), b.sent()
	oldestOf := map[string]int{}
	for member, s := range b.statics {
		oldestOf[member] = s.sent()
	}
	var before int64
	if b.shared != nil {
		before = b.shared.sent()
	}
	a := w.read("read of a bundle", "creds/"+b.name+name, refusal{http.StatusBadRequest, "cannot be joined"})
	switch a.outcome {
	case unknown:
	case refused:
		if !b.maySee(oldest, func(members []string) bool {
			return slices.ContainsFunc(members, func(member string) bool {
				return strings.Contains(a.says, fmt.Sprintf("%q", member)) &&
					b.statics[member].maySee(oldestOf[member], func(s staticState) bool { return !s.exists || !s.joins })
			})
		}) {
			w.wrong("creds/%s is refused, though all its members are there and allow it: %s", b.name, lastLine(a.says))
		}
	case acknowledged:
		w.checkBundle(b, name, oldest, oldestOf, before, a)
	}
}

func (w *worker) checkBundle(b *bundle, name string, oldest int, oldestOf map[string]int, before int64, a answer) {
	logins, ok := loginsIn(a.data(), name)
	if !ok {
		w.wrong("creds/%s%s: no Docker config in %v", b.name, name, a)
		return
	}
	read := maps.Clone(logins)
	if b.shared != nil {
		key := w.registryKey()
		w.checkShared(b.shared, before, read[key], a)
		delete(read, key)
	}
	is := func(members []string) bool {
		if len(members) != len(read) {
			return false
		}
		for _, member := range members {
			s := b.statics[member]
			l, there := read[s.key]
			if !there || !s.maySee(oldestOf[member], func(state staticState) bool {
				want := state.login
				if name == "/docker" {
					want.email = "" // not in this form
				}
				return state.exists && state.joins && want == l
			}) {
				return false
			}
		}
		return true
	}
	if !b.saw(oldest, is) {
		w.wrong("creds/%s%s, read from %s to %s: %v is not what its members were", b.name, name, stamp(a.sent), stamp(a.got), a)
	}
	want := form(name, logins)
	got := maps.Clone(a.data())
	for _, field := range []string{"expires_at", "last_vault_rotation", "rotation_period", "ttl", "grace_period", "registry", "username", "password"} {
		delete(got, field)
	}
	if !same(got, want) {
		w.wrong("creds/%s%s: want the bytes %v, got %v", b.name, name, want, got)
	}
}

// loginsIn returns the logins in a Docker config of either form, by registry
// key.
func loginsIn(data map[string]any, name string) (map[string]login, bool) {
	field := ".dockerconfigjson"
	if name == "/docker" {
		field = "config.json"
	}
	text, _ := data[field].(string)
	var config struct {
		Auths map[string]struct{ Email, Auth string } `json:"auths"`
	}
	if json.Unmarshal([]byte(text), &config) != nil {
		return nil, false
	}
	logins := map[string]login{}
	for key, entry := range config.Auths {
		both, err := base64.StdEncoding.DecodeString(entry.Auth)
		username, password, ok := strings.Cut(string(both), ":")
		if err != nil || !ok {
			return nil, false
		}
		logins[key] = login{username, password, entry.Email}
	}
	return logins, len(logins) > 0
}

// rewrite changes the members of the bundle "varied", if they can be joined.
func (w *worker) rewrite(b *bundle) {
	names := slices.Sorted(maps.Keys(b.statics))
	members := names[:1+w.IntN(len(names))]
	for _, member := range members {
		if now, certain := b.statics[member].last(); !certain || !now.exists || !now.joins {
			return
		}
	}
	b.write(members, func() outcome {
		return w.write("write of a bundle", "roles/"+b.name, map[string]any{"members": members}).outcome
	})
}

// listRoles lists the roles. Those that are never deleted must be in the list.
func (w *worker) listRoles() {
	oldestOf := make([]int, len(w.statics))
	for i, s := range w.statics {
		oldestOf[i] = s.sent()
	}
	a := w.list("list of the roles", "roles")
	if a.outcome != acknowledged {
		return
	}
	keys, _ := a.data()["keys"].([]any)
	listed := map[string]bool{}
	for _, key := range keys {
		listed[key.(string)] = true
	}
	for i, s := range w.statics {
		if !s.maySee(oldestOf[i], func(state staticState) bool { return state.exists == listed[s.name] }) {
			w.wrong("the list of roles, from %s to %s: role %s is listed: %t", stamp(a.sent), stamp(a.got), s.name, listed[s.name])
		}
	}
	for _, name := range w.lasting {
		if !listed[name] {
			w.wrong("the list of roles lacks %s: %v", name, keys)
		}
	}
}

// settings is a state of the config.
type settings struct {
	narrow bool // allowed_registries excludes the role "fenced"
	warns  bool // expiry_warning is so long that the role "expiring" warns
}

const (
	fenced      = "fenced"
	fencedAt    = "fenced.example.net"
	expiring    = "expiring"
	expiresIn   = 10 * 24 * time.Hour // of the role expiring
	longWarning = 30 * 24 * time.Hour
)

var fencedLogin = login{"robot", "fenced", ""}

// configure changes the config.
func (w *worker) configure() {
	if w.oneIn(6) {
		w.config.write(settings{warns: true}, func() outcome { return w.remove("delete of the config", "config").outcome })
		return
	}
	next := settings{w.oneIn(2), w.oneIn(2)}
	fields := map[string]any{"allowed_registries": "", "expiry_warning": "24h"}
	if next.narrow {
		fields["allowed_registries"] = w.roomForAllBut()
	}
	if next.warns {
		fields["expiry_warning"] = longWarning.String()
	}
	w.config.write(next, func() outcome { return w.write("write of the config", "config", fields).outcome })
}

func (w *world) roomForAllBut() string {
	return "*.example.com,docker.io," + w.gitlab.Host() + "," + w.pulls.Addr
}

// readByConfig reads a role whose answer depends on the config.
func (w *worker) readByConfig() {
	oldest := w.config.sent()
	switch w.IntN(3) {
	case 0:
		a := w.read("read of the config", "config")
		if a.outcome == acknowledged && !w.config.saw(oldest, func(s settings) bool { return w.isConfig(a.data(), s) }) {
			w.wrong("config: %v is older than what was acknowledged, or was never written", a)
		}
	case 1:
		a := w.read("read by the config", "creds/"+fenced, refusal{http.StatusBadRequest, "is not among the allowed_registries"})
		if a.outcome == unknown {
			return
		}
		if !w.config.saw(oldest, func(s settings) bool { return s.narrow == (a.outcome == refused) }) {
			w.wrong("creds/%s does not go by the config: %v", fenced, a)
		}
		if a.outcome == acknowledged && a.data()["password"] != fencedLogin.password {
			w.wrong("creds/%s: %v", fenced, a)
		}
	case 2:
		a := w.read("read by the config", "creds/"+expiring)
		if a.outcome != acknowledged {
			return
		}
		if a.data()["password"] != fencedLogin.password {
			w.wrong("creds/%s: %v", expiring, a)
		} else if warned := len(a.Warnings) > 0; !w.config.saw(oldest, func(s settings) bool { return s.warns == warned }) {
			w.wrong("creds/%s does not go by the config: warnings %q", expiring, a.Warnings)
		}
	}
}

func (w *world) isConfig(data map[string]any, s settings) bool {
	allowed, _ := data["allowed_registries"].([]any)
	return (len(allowed) > 0) == s.narrow && (fmt.Sprint(data["expiry_warning"]) != "86400") == s.warns
}
