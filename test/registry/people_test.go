package registry_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/client"
	"github.com/nimbus-ci/nimbus/internal/registry"
)

// TestPeople lists, sets rules, removes and collects over the API, and finds what
// was changed in the ledger.
func TestPeople(t *testing.T) {
	t.Parallel()
	c := embedded(t, registry.Limits{})
	push := &pusher{t: t, url: "http://" + c.address, token: c.token}
	m := push.image("default/team/app", "v1", fresh(100), fresh(1000))
	push.do("PUT", "/v2/default/team/app/manifests/v2", m, "Content-Type", ociManifest).want(t, 201, "")
	push.do("GET", "/v2/default/team/app/manifests/v2", nil).want(t, 200, "")
	cl, err := client.New(client.Config{Server: "http://" + c.address, Token: c.token})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(err)
	defer cl.Close()
	ctx := t.Context()
	rules := nimbus.ImageRules{Immutable: true, KeepDays: 7, PushFrom: []string{nimbus.OwnJobs, "octo/app"}}
	must(cl.SetImageRules(ctx, "team/app", nimbus.ImageRules{Immutable: true, KeepDays: 7, PushFrom: []string{"Octo/App", nimbus.OwnJobs, "octo/app"}}))
	for _, from := range []string{"octo", "octo/*", "", "a b/c"} {
		if err := cl.SetImageRules(ctx, "team/app", nimbus.ImageRules{PushFrom: []string{from}}); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%q may push: %v", from, err)
		}
	}
	repos, used, next, err := cl.ImageRepos(ctx, nimbus.PageRequest{})
	must(err)
	if len(repos) != 1 || next != "" || repos[0].Name != "team/app" || repos[0].Tags != 2 || repos[0].Manifests != 1 || repos[0].Bytes != 1100 ||
		!reflect.DeepEqual(repos[0].ImageRules, rules) || used.Bytes != 1100+int64(len(m)) {
		t.Errorf("the repositories are %+v, of %+v", repos, used)
	}
	repo, images, next, err := cl.Images(ctx, "team/app", nimbus.PageRequest{Size: 1})
	must(err)
	digest := string(registry.Of(registry.SHA256, m))
	if !reflect.DeepEqual(repo, repos[0]) {
		t.Errorf("the repository is %+v, and was %+v", repo, repos[0])
	}
	if len(images) != 1 || next != "v1" || images[0].Tag != "v1" || images[0].Digest != digest || images[0].Bytes != 1100+int64(len(m)) || images[0].PushedAt.IsZero() {
		t.Errorf("the images are %+v, then %q", images, next)
	}
	for _, reference := range []string{"v1", digest, ""} {
		if err := cl.RemoveImages(ctx, "team/app", reference); nimbus.ErrorCode(err) != nimbus.CodeConflict || !strings.Contains(nimbus.ErrorHint(err), "without --immutable") {
			t.Errorf("%q is removed where tags do not change: %v", reference, err)
		}
	}
	must(cl.SetImageRules(ctx, "team/app", nimbus.ImageRules{}))
	must(cl.RemoveImages(ctx, "team/app", "v1"))
	must(cl.RemoveImages(ctx, "team/app", digest))
	if err := cl.RemoveImages(ctx, "team/app", "v2"); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("a tag goes with its image, and can be removed once more: %v", err)
	}
	must(cl.RemoveImages(ctx, "team/app", ""))
	if _, _, _, err := cl.Images(ctx, "team/app", nimbus.PageRequest{}); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("it is removed, and listed: %v", err)
	}
	done, err := cl.CollectImages(ctx)
	if err != nil || done.Blobs != 2 {
		t.Errorf("%+v is collected, %v", done, err)
	}
	must(cl.SetImageMirror(ctx, nimbus.ImageMirrorChange{Name: "docker.io", Username: "acme", Password: "a-password", Allow: []string{"library/*"}}))
	mirrors, err := cl.ImageMirrors(ctx)
	must(err)
	if len(mirrors) != 1 || mirrors[0].Upstream != "https://registry-1.docker.io" || mirrors[0].Username != "acme" || len(mirrors[0].Allow) != 1 || mirrors[0].Quota == 0 ||
		strings.Contains(fmt.Sprintf("%+v", mirrors), "a-password") {
		t.Errorf("the mirrors are %+v", mirrors)
	}
	must(cl.RemoveImageMirror(ctx, "docker.io"))
	if err := cl.RemoveImageMirror(ctx, "docker.io"); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("a mirror that was removed is removed once more: %v", err)
	}
	// Events are chained by who leads, a moment later.
	told := map[string]int{}
	for deadline := time.Now().Add(30 * time.Second); told["registry.remove_mirror"] < 1 && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		entries, _, err := cl.AuditEntries(ctx, false, nimbus.AuditFilter{}, nimbus.PageRequest{Size: nimbus.MaxPageSize})
		must(err)
		clear(told)
		for _, e := range entries {
			told[e.Action]++
		}
	}
	if told["registry.remove"] != 3 || told["registry.set_rules"] != 2 || told["registry.set_mirror"] != 1 || told["registry.remove_mirror"] != 1 {
		t.Errorf("the ledger has %v", told)
	}
}

// TestPlatformsAreTold: an image says in its config for which platform it is, an
// index for which of its images; what is none is not told.
func TestPlatformsAreTold(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{}, func(t *testing.T, w *world) {
		o := w.org("acme")
		c := w.client(w.token(o, nimbus.RoleDeveloper))
		arm := []byte(`{"architecture":"arm64","os":"linux","variant":"v8","rootfs":{"type":"layers","diff_ids":[]}}`)
		layer := fresh(1000)
		one := c.image("acme/app", "arm", arm, layer)
		c.image("acme/app", "broken", []byte(`{"architecture":`), layer)
		c.image("acme/app", "strange", []byte(`{"architecture":"a,b","os":"linux"}`), layer)
		both := c.index("acme/app", "both", map[string][][]byte{"linux/amd64": {fresh(10), layer}, "unknown/unknown": {fresh(10), fresh(50)}})
		r, images, _, err := w.replicas[0].ListImages(t.Context(), o.ID, "app", nimbus.PageRequest{})
		w.must(err)
		if r.Tags != 4 || r.Name != "app" {
			t.Errorf("the repository is %+v", r)
		}
		for _, i := range images {
			want := map[string]string{"arm": "linux/arm64/v8", "both": "linux/amd64"}[i.Tag]
			if got := strings.Join(i.Platforms, " "); got != want {
				t.Errorf("%s is for %q, want %q", i.Tag, got, want)
			}
			if want := int64(len(one) + len(arm) + len(layer)); i.Tag == "arm" && i.Bytes != want {
				t.Errorf("an image has %d bytes, want %d", i.Bytes, want)
			}
			if least := int64(len(both) + 10 + len(layer) + 10 + 50); i.Tag == "both" && (i.Bytes <= least || i.Bytes > least+2000) {
				t.Errorf("an index has %d bytes, want those of its images, too: %d and their manifests", i.Bytes, least)
			}
		}
	})
}
