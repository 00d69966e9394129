// SPDX-License-Identifier: MPL-2.0

//go:build linux && e2e && e2e_kubelet

package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

const (
	// keptFor is how long the kubelet keeps an answer during the tests of rotation.
	keptFor = 25 * time.Second

	// wantPulls is how many pulls a test of rotation makes at least, and
	// wantRotations how often each of its two credentials is replaced meanwhile.
	wantPulls, wantRotations = 200, 3

	loopImage = "ghcr.io/acme/loop:1"
)

// testProviderRotation starts pods in a loop, each container with a pull of its
// own, while two credentials are replaced: one by hand, at the registry and in a
// static role, and one by the engine, in a shared role. No pull fails.
func testProviderRotation(t *testing.T, w *providerWorld) {
	static, shared := w.namespace(t, "static", "one", "two"), w.namespace(t, "shared", "one", "two")
	image := w.sharedRole(t, "shared", "rotation_period=10s", "grace_period=10s")
	images := map[*servers.Kubernetes]string{static: loopImage, shared: image}
	robot := w.newRobot(0)
	w.acceptRobots(t, robot)

	var staticRotations atomic.Int32
	var rotating sync.WaitGroup
	stop := make(chan struct{})
	rotating.Go(func() { w.rotateStatic(t, robot, stop, &staticRotations) })
	t.Cleanup(rotating.Wait)
	t.Cleanup(func() { close(stop) })

	sharedVersions := map[string]bool{} // by when the credential was made
	began := time.Now()
	servers.Eventually(t, func() error {
		for k, image := range images {
			startPods(t, k, loopPod("one", image), loopPod("two", image))
		}
		for k := range images {
			for _, name := range []string{"one", "two"} {
				servers.Eventually(t, func() error { return runs(k, name) })
			}
		}
		for k := range images {
			k.Kubectl(t, "", "delete", "pods", "--all", "--grace-period=1")
		}
		served := creds(t, w.vault, "shared")
		sharedVersions[served["last_vault_rotation"]] = true
		w.secrets.Add("token that the engine has minted", served["password"])
		done, failed := w.pulls(loopImage, image)
		if failed > 0 {
			t.Fatalf("%d of %d pulls have failed", failed, done+failed)
		}
		if done < wantPulls || len(sharedVersions) <= wantRotations || staticRotations.Load() < wantRotations {
			return fmt.Errorf("%d pulls so far, %d static rotations, %d shared ones", done, staticRotations.Load(), len(sharedVersions)-1)
		}
		return nil
	})
	done, _ := w.pulls(loopImage, image)
	t.Logf("%d pulls in %s, and none failed, while a static role was replaced %d times and a shared one at least %d times",
		done, time.Since(began).Round(time.Second), staticRotations.Load(), len(sharedVersions)-1)
	for entry := range w.kubeletLog() {
		if strings.Contains(entry, "Failed to provide credentials") && (strings.Contains(entry, `pod="static/`) || strings.Contains(entry, `pod="shared/`)) {
			t.Errorf("the provider has failed: %s", entry)
		}
	}
}

// staticPeriod is for how long a static role has the same credential. The one
// before it works for as long at the registry.
const staticPeriod = keptFor + 15*time.Second

// loopPod has six containers, each of which pulls.
func loopPod(account, image string) pod {
	p := pod{name: account, account: account, always: true}
	for range 6 {
		p.images = append(p.images, image)
	}
	return p
}

// pulls counts the pulls of images that have ended.
func (w *providerWorld) pulls(images ...string) (done, failed int) {
	log := w.node.Containerd.Log()
	for _, image := range images {
		done += strings.Count(log, `PullImage \"`+image+`\" returns image reference`)
		failed += strings.Count(log, `PullImage \"`+image+`\" failed`)
	}
	return done, failed
}

// rotateStatic replaces the credential of the role static until it is stopped, as a
// person would: a second robot at the registry, the role, and, once no kubelet can
// have the first one any more, its end.
func (w *providerWorld) rotateStatic(t *testing.T, robot clients.Login, stop <-chan struct{}, done *atomic.Int32) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(staticPeriod):
		}
		next := w.newRobot(int(done.Load()) + 1)
		w.acceptRobots(t, robot, next)
		robot = next
		done.Add(1)
	}
}

func (w *providerWorld) newRobot(number int) clients.Login {
	name := fmt.Sprintf("robot-%d", number)
	return clients.Login{Username: name, Password: w.secrets.New("password of " + name)}
}

// acceptRobots makes the registry accept these robots and no others, and writes the
// last one to the role static.
func (w *providerWorld) acceptRobots(t *testing.T, robots ...clients.Login) {
	users := maps.Clone(w.ghcrUsers)
	for _, robot := range robots {
		users[robot.Username] = servers.TokenUser{Password: robot.Password, Pull: []string{"acme/loop"}}
	}
	w.ghcr.SetUsers(users)
	last := robots[len(robots)-1]
	_, err := w.vault.Client.Logical().Write("regcred/roles/static", map[string]any{
		"registry": "ghcr.io", "username": last.Username, "password": last.Password,
	})
	if err != nil {
		t.Errorf("writing the role static: %v", err)
	}
}

// sharedRole writes a role whose credential the engine mints at Gitea, for an
// account of its own, and returns an image that only this account can pull.
func (w *providerWorld) sharedRole(t *testing.T, role string, fields ...string) (image string) {
	t.Helper()
	admin, puller := w.gitea.AddAdmin(t, "minter"), w.gitea.AddUser(t, "puller")
	w.secrets.Add("password of "+admin.Name, admin.Password)
	w.vault.CLI(t, admin.Password, "write", "regcred/connections/"+role, "type=gitea", "url="+w.gitea.URL, "registry="+w.gitea.Host,
		"username="+admin.Name, "password=-", "allowed_roles="+role, "allowed_targets="+puller.Name)
	w.vault.CLI(t, "", append([]string{"write", "regcred/roles/" + role, "connection=" + role, "mode=shared", "user=" + puller.Name}, fields...)...)
	image = w.gitea.Host + "/" + puller.Name + "/app:1"
	pushPause(t, image, clients.Login{Username: puller.Name, Password: puller.Password})
	return image
}

// testProviderRevokedEarly: a credential ends at the registry while the kubelet
// keeps it, and rotate/ replaces it. The kubelet does not notice; a pull works once
// it asks the provider again.
func testProviderRevokedEarly(t *testing.T, w *providerWorld) {
	k := w.namespace(t, "early", "web")
	image := w.sharedRole(t, "early", "rotation_period=1h", "grace_period=1h")
	puller := strings.Split(image, "/")[1]
	first := pod{name: "first", account: "web", images: []string{image}, always: true}
	startPods(t, k, first)
	servers.Eventually(t, func() error { return runs(k, "first") })

	for _, token := range w.gitea.Tokens(t, puller) {
		w.gitea.Operate(t, http.MethodDelete, "/users/"+puller+"/tokens/"+token, http.StatusNoContent, nil, nil)
	}
	w.vault.CLI(t, "", "write", "-force", "regcred/rotate/early")
	began := time.Now()
	second := first
	second.name = "second"
	startPods(t, k, second)
	servers.Eventually(t, func() error { return runs(k, "second") })
	_, failed := w.pulls(image)
	t.Logf("a credential ended at the registry, and rotate/ replaced it: a pull worked %s later, after %d that failed; the kubelet kept the answer for %s",
		time.Since(began).Round(time.Second), failed, keptFor)
	third := first
	third.name = "third"
	startPods(t, k, third)
	servers.Eventually(t, func() error { return runs(k, "third") })
	if _, now := w.pulls(image); now != failed {
		t.Errorf("want no pull to fail once one has worked, got %d more", now-failed)
	}
	if err := runs(k, "first"); err != nil {
		t.Error(err)
	}
}

// testProviderWithoutVault stops Vault while pods run, and then has it hang.
func testProviderWithoutVault(t *testing.T, w *providerWorld) {
	k := w.namespace(t, "down", "kept", "late", "fresh", "hang")
	const next, fresh, hang = "registry.gitlab.com/group/next:1", "registry.gitlab.com/group/fresh:1", "registry.gitlab.com/group/hang:1"
	// The kubelet keeps the answer for one service account, and not for the other.
	w.configure(t)
	startPods(t, k, pod{name: "kept", account: "kept", images: []string{gitlabImage}})
	servers.Eventually(t, func() error { return runs(k, "kept") })
	w.configure(t, "maxCacheDuration: 0s")
	startPods(
		t, k,
		pod{name: "late", account: "late", images: []string{gitlabImage}},
		pod{name: "late-ends", account: "late", images: []string{gitlabImage}},
	)
	servers.Eventually(t, func() error { return runs(k, "late") })
	servers.Eventually(t, func() error { return runs(k, "late-ends") })

	w.vault.Stop(t)
	startPods(
		t, k,
		pod{name: "kept-again", account: "kept", images: []string{gitlabImage}},
		pod{name: "kept-next", account: "kept", images: []string{next}},
		pod{name: "late-again", account: "late", images: []string{gitlabImage}},
		pod{name: "fresh", account: "fresh", images: []string{fresh}},
	)
	w.node.EndContainer(t, "down", "late-ends")
	servers.Eventually(t, func() error { return runs(k, "kept-again") })
	servers.Eventually(t, func() error { return runs(k, "kept-next") })
	// By default, the kubelet wants a credential also for an image that is there.
	servers.Eventually(t, func() error { return refused(k, "late-again", unauthorized) })
	servers.Eventually(t, func() error { return waits(k, "late-ends", "ImagePullBackOff") })
	servers.Eventually(t, func() error { return refused(k, "fresh", unauthorized) })
	servers.Eventually(t, func() error { return w.logged("down/fresh", "no answer of Vault at ") })
	w.failsInTime(t, "Vault stopped", fresh)

	// With this setting it does not. What it kept is lost when it restarts.
	w.node.StopKubelet(t)
	w.node.StartKubelet(t, append([]string{"imagePullCredentialsVerificationPolicy: NeverVerify"}, kubeletSettings...)...)
	servers.Eventually(t, func() error { return runs(k, "late-again") })
	servers.Eventually(t, func() error { return waits(k, "late-ends", "") })
	startPods(t, k, pod{name: "kept-fresh", account: "kept", images: []string{fresh}})
	servers.Eventually(t, func() error { return refused(k, "kept-fresh", unauthorized) })
	for _, pod := range []string{"kept", "late"} {
		if err := runs(k, pod); err != nil {
			t.Errorf("Vault is down: %v", err)
		}
	}

	w.vault.Restart(t)
	w.vault.Unseal(t)
	w.vault.WaitUntilServed(t)
	back := time.Now()
	servers.Eventually(t, func() error { return runs(k, "fresh") })
	servers.Eventually(t, func() error { return runs(k, "kept-fresh") })
	t.Logf("Vault was stopped: a pod waiting for it ran %s after it was back", time.Since(back).Round(time.Second))

	resume := w.vault.Pause(t)
	startPods(t, k, pod{name: "hang", account: "hang", images: []string{hang}})
	servers.Eventually(t, func() error { return refused(k, "hang", unauthorized) })
	w.failsInTime(t, "Vault hung", hang)
	resume()
	back = time.Now()
	servers.Eventually(t, func() error { return runs(k, "hang") })
	t.Logf("Vault hung: a pod waiting for it ran %s after it was back", time.Since(back).Round(time.Second))
}

// waits returns nil when the container of a pod waits for a reason, or, with no
// reason, when it runs.
func waits(k *servers.Kubernetes, pod, reason string) error {
	status, err := k.TryKubectl("", "get", "pod", pod, "-o", "jsonpath={.status.phase} {.status.containerStatuses[*].state.waiting.reason}")
	if err == nil && status != "Running "+reason {
		err = fmt.Errorf("want the container of pod %s in state %q, got %q", pod, reason, status)
	}
	return err
}

// failsInTime checks how long the first pull of an image took to fail: from when
// the kubelet ran the provider until it gave the pull up.
func (w *providerWorld) failsInTime(t *testing.T, when, image string) {
	t.Helper()
	const most = 12 * time.Second
	var began, ended time.Time
	for entry := range w.kubeletLog() {
		switch {
		case began.IsZero() && strings.Contains(entry, "Getting image credentials from external exec plugin") &&
			strings.Contains(entry, `image="`+strings.TrimSuffix(image, ":1")+`"`):
			began = loggedAt(t, entry)
		case ended.IsZero() && strings.Contains(entry, `"Failed to pull image"`) && strings.Contains(entry, `image="`+image+`"`):
			ended = loggedAt(t, entry)
		}
	}
	if began.IsZero() || ended.IsZero() {
		t.Fatalf("%s: the kubelet's log does not say when it pulled %s", when, image)
	}
	if took := ended.Sub(began); took > most {
		t.Errorf("%s: want the pull to fail within %s, it took %s", when, most, took)
	} else {
		t.Logf("%s: a pull failed after %s", when, took.Round(100*time.Millisecond))
	}
}

// loggedAt returns the time of an entry of the kubelet's log, as klog writes it,
// without the year.
func loggedAt(t *testing.T, entry string) time.Time {
	t.Helper()
	at, err := time.Parse("0102 15:04:05.000000", strings.Join(strings.Fields(entry[1:])[:2], " "))
	if err != nil {
		t.Fatalf("an entry without a time: %s", entry)
	}
	return at
}
