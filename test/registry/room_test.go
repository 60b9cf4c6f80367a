package registry_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/registry"
)

const ociIndex = "application/vnd.oci.image.index.v1+json"

// index pushes images without a tag, one for each platform, and a tagged index of
// them, which it returns.
func (c *pusher) index(repo, tag string, platforms map[string][][]byte) []byte {
	c.t.Helper()
	type platform struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
	}
	type named struct {
		MediaType string          `json:"mediaType"`
		Digest    registry.Digest `json:"digest"`
		Size      int             `json:"size"`
		Platform  platform        `json:"platform"`
	}
	all := []named{}
	for name, blobs := range platforms {
		for _, b := range blobs {
			c.push(repo, b)
		}
		m := manifestOf(blobs...)
		digest := registry.Of(registry.SHA256, m)
		c.do("PUT", "/v2/"+repo+"/manifests/"+string(digest), m, "Content-Type", ociManifest).want(c.t, 201, "")
		os, arch, _ := strings.Cut(name, "/")
		all = append(all, named{ociManifest, digest, len(m), platform{os, arch}})
	}
	text, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": all})
	if err != nil {
		c.t.Fatal(err)
	}
	c.do("PUT", "/v2/"+repo+"/manifests/"+tag, text, "Content-Type", ociIndex).want(c.t, 201, "")
	return text
}

// pulls tells whether an image can be pulled, with every blob that it names.
func (c *pusher) pulls(repo, reference string) bool {
	c.t.Helper()
	a := c.do("GET", "/v2/"+repo+"/manifests/"+reference, nil)
	if a.status == 404 {
		return false
	}
	a.want(c.t, 200, "")
	var m struct {
		Config    *layer  `json:"config"`
		Layers    []layer `json:"layers"`
		Manifests []layer `json:"manifests"`
	}
	if err := json.Unmarshal(a.body, &m); err != nil {
		c.t.Fatal(err)
	}
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, l := range m.Layers {
		got := c.do("GET", "/v2/"+repo+"/blobs/"+l.Digest, nil).want(c.t, 200, "")
		if string(registry.Of(registry.SHA256, got.body)) != l.Digest {
			c.t.Errorf("%s of %s:%s has another content", l.Digest, repo, reference)
		}
	}
	for _, l := range m.Manifests {
		if !c.pulls(repo, l.Digest) {
			c.t.Errorf("%s:%s names %s, which is gone", repo, reference, l.Digest)
		}
	}
	return true
}

// TestImagesMakeRoom has an org push until there is no room. It is told so with the
// figures; then the images that were used least go, where a rule allows it, each
// whole, with those of its platforms, and no more of them than it takes. What others
// name of their layers stays, as does what was pulled since.
func TestImagesMakeRoom(t *testing.T) {
	t.Parallel()
	const quota = 1_000_000
	onEngines(t, registry.Limits{Org: quota, Read: time.Nanosecond}, func(t *testing.T, w *world) {
		o := w.org("acme")
		c := w.client(w.token(o, nimbus.RoleOperator))
		admin := nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin"}
		base := fresh(100_000)
		old := c.image("acme/kept", "old", fresh(100), fresh(100_000), base) // no rule of its repository has it go
		w.pass(time.Minute)
		for i := range 6 { // one is 120 kB of its own
			config := fresh(100)
			c.index("acme/cache", fmt.Sprint("v", i), map[string][][]byte{"linux/amd64": {config, fresh(60_000), base}, "linux/arm64": {config, fresh(60_000), base}})
			w.pass(time.Minute)
		}
		w.must(w.replicas[0].SetImageRules(t.Context(), admin, o.ID, "cache", nimbus.ImageRules{Evict: true}))
		big := fresh(100_000)
		a := c.do("POST", "/v2/acme/cache/blobs/uploads/?digest="+string(registry.Of(registry.SHA256, big)), big).want(t, 403, "DENIED")
		for _, word := range []string{"quota", fmt.Sprintf("%d of %d bytes", w.used(o), quota), "nimbus registry rm"} {
			if !strings.Contains(string(a.body), word) {
				t.Errorf("the refusal does not say %q: %s", word, a.body)
			}
		}
		if done := w.swept(); done.Images != 0 {
			t.Errorf("%d images go that were pushed today", done.Images)
		}
		w.pass(25 * time.Hour)
		c.pulls("acme/cache", "v0") // so that it is not the one that was used least
		w.must(w.replicas[0].Flush(t.Context()))
		if done := w.swept(); done.Images != 1 {
			t.Errorf("%d images make room, want 1", done.Images)
		}
		if done := w.swept(); done.Images != 0 {
			t.Errorf("%d more go, though there is room", done.Images)
		}
		if got := w.used(o); got > 0.9*quota || got < 0.7*quota {
			t.Errorf("%d bytes are used then", got)
		}
		for tag, there := range map[string]bool{"v0": true, "v1": false, "v2": true, "v3": true, "v4": true, "v5": true} {
			if c.pulls("acme/cache", tag) != there {
				t.Errorf("%s is there: %v", tag, !there)
			}
		}
		if !c.pulls("acme/kept", "old") {
			t.Error("an image of a repository without that rule has gone")
		}
		c.push("acme/cache", big)
		// Nothing is left but what is named.
		c.do("DELETE", "/v2/acme/kept/manifests/"+string(registry.Of(registry.SHA256, old)), nil).want(t, 202, "")
		w.must(w.replicas[0].RemoveRepo(t.Context(), admin, registry.Place{OrgID: o.ID, Repo: "cache"}))
		w.pass(25 * time.Hour)
		w.swept()
		w.pass(time.Second)
		w.swept()
		if w.used(o) != 0 || w.stored() != 0 {
			t.Errorf("of nothing %d bytes are counted, and %d contents stored", w.used(o), w.stored())
		}
	})
}

// TestImagesAreKeptForDays: images that nobody used for as long as the rule of their
// repository says go, those of an index with it; one that was pulled by its digest
// alone stays for as long.
func TestImagesAreKeptForDays(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{Read: time.Nanosecond}, func(t *testing.T, w *world) {
		o := w.org("acme")
		c := w.client(w.token(o, nimbus.RoleOperator))
		admin := nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin"}
		pinned := [][]byte{fresh(100), fresh(1000)}
		c.index("acme/app", "unused", map[string][][]byte{"linux/amd64": {fresh(100), fresh(1000)}, "linux/arm64": pinned})
		c.image("acme/app", "used", fresh(100), fresh(1000))
		c.image("acme/other", "unused", fresh(100), fresh(1000))
		w.must(w.replicas[0].SetImageRules(t.Context(), admin, o.ID, "app", nimbus.ImageRules{KeepDays: 7}))
		digest := string(registry.Of(registry.SHA256, manifestOf(pinned...)))
		w.pass(6 * 24 * time.Hour)
		c.pulls("acme/app", "used")
		c.pulls("acme/app", digest)
		w.must(w.replicas[0].Flush(t.Context()))
		w.swept()
		if !c.pulls("acme/app", "unused") {
			t.Error("it goes before its time")
		}
		w.pass(8 * 24 * time.Hour)
		c.pulls("acme/app", digest)
		c.pulls("acme/app", "used")
		w.must(w.replicas[0].Flush(t.Context()))
		if done := w.swept(); done.Images != 1 || done.Blobs != 2 {
			t.Errorf("%+v goes, want an image with 2 blobs", done)
		}
		for name, there := range map[string]bool{"acme/app:unused": false, "acme/app:used": true, "acme/other:unused": true, "acme/app:" + digest: true} {
			repo, reference, _ := strings.Cut(name, ":")
			if c.pulls(repo, reference) != there {
				t.Errorf("%s is there: %v", name, !there)
			}
		}
	})
}

// TestOrgWithImagesIsDeleted: with an org go its images, uploads, rules and what it
// counts, and nothing of an org that has the same content.
func TestOrgWithImagesIsDeleted(t *testing.T) {
	t.Parallel()
	onEngines(t, registry.Limits{Read: time.Nanosecond}, func(t *testing.T, w *world) {
		gone, stays := w.org("gone"), w.org("stays")
		config, same := fresh(100), fresh(1000)
		theirs := w.client(w.token(gone, nimbus.RoleOperator))
		theirs.image("gone/app", "v1", config, same)
		begun := theirs.do("POST", "/v2/gone/app/blobs/uploads/", nil).want(t, 202, "")
		begun = theirs.do("PATCH", theirs.at(begun), fresh(500)).want(t, 202, "")
		theirs.do("PATCH", theirs.at(begun), fresh(500)).want(t, 202, "")
		ours := w.client(w.token(stays, nimbus.RoleOperator))
		ours.image("stays/app", "v1", config, same)
		if n := w.stored(); n != 6 {
			t.Errorf("%d contents are stored, want 6", n)
		}
		w.must(w.identity.DeleteOrg(t.Context(), identity.Root(), gone.ID))
		w.pass(2 * time.Second)
		root := &pusher{t, w.replicas[0].url, "root"}
		w.jobs["root"] = nimbus.Principal{Kind: nimbus.PrincipalAdmin, Subject: "admin", Platform: true}
		for _, path := range []string{"/v2/gone/app/manifests/v1", "/v2/gone/app/tags/list", "/v2/gone/app/blobs/" + string(registry.Of(registry.SHA256, same))} {
			root.do("GET", path, nil).want(t, 403, "DENIED")
		}
		w.swept()
		if n := w.stored(); n != 2 {
			t.Errorf("%d contents are left, want the other org's 2", n)
		}
		if w.used(gone) != 0 {
			t.Errorf("%d bytes of the org are counted", w.used(gone))
		}
		if repos, _, err := w.replicas[0].Repos(t.Context(), gone.ID, nimbus.PageRequest{}); err != nil || len(repos) != 0 {
			t.Errorf("%+v are left, %v", repos, err)
		}
		if !ours.pulls("stays/app", "v1") || w.used(stays) == 0 {
			t.Error("the other org's image has gone, too")
		}
		// Its name is free, and nothing of it comes back.
		again := w.org("gone")
		w.client(w.token(again, nimbus.RoleOperator)).do("GET", "/v2/gone/app/manifests/v1", nil).want(t, 404, "")
	})
}
