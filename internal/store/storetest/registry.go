package storetest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/registry"
)

// RegistryStore is what is tried of registries.
type RegistryStore interface {
	registry.Store
	OffsetClock(ctx context.Context, by time.Duration) error
}

// RunRegistry tries what the registry relies on of stores that open returns, each
// new and empty.
func RunRegistry(t *testing.T, open func(t *testing.T) RegistryStore) {
	for name, test := range map[string]func(*testing.T, *registryBooks){
		"collects blobs that still are loose":     testRegistryLooseBlobs,
		"keeps a blob for its grace":              testRegistryGrace,
		"collects manifests that still are loose": testRegistryLooseManifests,
		"grows an upload by one at a time":        testRegistryUploads,
		"counts each byte of an org once":         testRegistryCounts,
		"removes a repository, and all of it":     testRegistryRepos,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, &registryBooks{RegistryStore: open(t), t: t})
		})
	}
}

// registryBooks is a store with shortcuts for tests.
type registryBooks struct {
	RegistryStore
	t      *testing.T
	pushed int
}

func (b *registryBooks) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func registryPlace(repo string) registry.Place {
	return registry.Place{OrgID: nimbus.DefaultOrgID, Repo: repo}
}

func registryLimits() registry.Limits { return registry.Limits{}.WithDefaults() }

// digestOf is the digest of a content that a test calls so.
func digestOf(name string) registry.Digest { return registry.Of(registry.SHA256, []byte(name)) }

// blob makes one of 100 bytes.
func (b *registryBooks) blob(p registry.Place, name string) registry.Digest {
	b.t.Helper()
	b.pushed++ // no content has the name of another
	path := fmt.Sprint("of-", p.Repo, name, b.pushed)
	_, err := b.PutRegistryBlob(b.t.Context(), p, registry.Blob{Digest: digestOf(name), Size: 100, Path: path}, registryLimits())
	b.must(err)
	return digestOf(name)
}

// manifest keeps one of 10 bytes that names blobs.
func (b *registryBooks) manifest(p registry.Place, name string, tags []string, blobs ...registry.Digest) registry.Digest {
	b.t.Helper()
	m := registry.Manifest{Digest: digestOf(name), MediaType: "m", Content: []byte(name), Size: 10, Blobs: blobs}
	b.must(b.PutRegistryManifest(b.t.Context(), p, m, tags, registryLimits()))
	return m.Digest
}

func (b *registryBooks) bytes(want int64) {
	b.t.Helper()
	u, err := b.RegistryUsage(b.t.Context(), nimbus.DefaultOrgID)
	b.must(err)
	if u.Bytes != want {
		b.t.Errorf("%d bytes are counted, want %d", u.Bytes, want)
	}
}

// looseBlobs are those that may be collected after an hour.
func (b *registryBooks) looseBlobs(want int) []registry.Loose {
	b.t.Helper()
	loose, err := b.LooseRegistryBlobs(b.t.Context(), time.Hour, registry.Loose{}, 10)
	b.must(err)
	if len(loose) != want {
		b.t.Errorf("%d blobs are loose, want %d", len(loose), want)
	}
	return loose
}

func (b *registryBooks) collect(loose []registry.Loose, want int) {
	b.t.Helper()
	n, err := b.CollectRegistryBlobs(b.t.Context(), time.Hour, loose)
	b.must(err)
	if n != want {
		b.t.Errorf("%d blobs are collected, want %d", n, want)
	}
}

func testRegistryLooseBlobs(t *testing.T, b *registryBooks) {
	p := registryPlace("app")
	named, loose := b.blob(p, "named"), b.blob(p, "loose")
	b.blob(registryPlace("other"), "loose")
	b.must(b.OffsetClock(t.Context(), 2*time.Hour))
	found := b.looseBlobs(3)
	b.manifest(p, "manifest", nil, named) // since they were found
	b.collect(found, 2)
	b.collect(found, 0)
	for _, d := range []registry.Digest{named, loose} {
		_, _, err := b.RegistryBlob(t.Context(), p, d)
		if there := err == nil; there != (d == named) {
			t.Errorf("%s: %v", d, err)
		}
	}
	m := registry.Manifest{Digest: digestOf("m2"), MediaType: "m", Content: []byte("m2"), Size: 10, Blobs: []registry.Digest{named, loose}}
	if err := b.PutRegistryManifest(t.Context(), p, m, nil, registryLimits()); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("a manifest names what was collected: %v", err)
	}
	garbage, err := b.RegistryGarbage(t.Context(), 0, registry.Garbage{}, 10)
	b.must(err)
	if len(garbage) != 1 || garbage[0].Path != "of-otherloose3" && garbage[0].Path != "of-apploose2" {
		t.Errorf("garbage is %+v", garbage)
	}
	b.bytes(110)
}

func testRegistryGrace(t *testing.T, b *registryBooks) {
	p, other := registryPlace("app"), registryPlace("other")
	for _, name := range []string{"touched", "mounted", "pushed", "left"} {
		b.blob(p, name)
	}
	b.must(b.OffsetClock(t.Context(), 61*time.Minute))
	found := b.looseBlobs(4)
	b.must(b.TouchRegistryBlob(t.Context(), p, digestOf("touched")))
	b.must(b.MountRegistryBlob(t.Context(), p, other, digestOf("mounted")))
	b.blob(p, "pushed")
	b.collect(found, 1)
	if err := b.TouchRegistryBlob(t.Context(), p, digestOf("left")); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("what was collected is touched: %v", err)
	}
	if err := b.MountRegistryBlob(t.Context(), p, other, digestOf("left")); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("what was collected is mounted: %v", err)
	}
	b.looseBlobs(0)
	b.must(b.OffsetClock(t.Context(), 3*time.Hour))
	b.collect(b.looseBlobs(4), 4)
	b.bytes(0)
}

func testRegistryLooseManifests(t *testing.T, b *registryBooks) {
	ctx, p := t.Context(), registryPlace("app")
	for _, name := range []string{"tagged", "named", "loose", "pulled"} {
		b.manifest(p, name, nil)
	}
	b.must(b.OffsetClock(ctx, 2*time.Hour))
	found, err := b.LooseRegistryManifests(ctx, time.Hour, registry.Loose{}, 10)
	b.must(err)
	if len(found) != 4 {
		t.Fatalf("%d manifests are loose", len(found))
	}
	b.manifest(p, "tagged", []string{"v1"}) // since they were found
	index := registry.Manifest{Digest: digestOf("index"), MediaType: "i", Content: []byte("index"), Size: 10, Manifests: []registry.Digest{digestOf("named")}}
	b.must(b.PutRegistryManifest(ctx, p, index, []string{"v2"}, registryLimits()))
	b.must(b.UsedRegistryManifests(ctx, []registry.Use{{Place: p, Digest: digestOf("pulled"), Ago: time.Second}}))
	for _, m := range found {
		removed, err := b.CollectRegistryManifest(ctx, m, false)
		b.must(err)
		if removed != (m.Digest == digestOf("loose")) {
			t.Errorf("%s is removed: %v", m.Digest, removed)
		}
	}
	b.bytes(40)
	// An image goes with its tags, if nobody has used it since.
	b.must(b.SetRegistryRules(ctx, p, nimbus.ImageRules{KeepDays: 1}, nimbus.AuditEvent{}))
	b.must(b.OffsetClock(ctx, 48*time.Hour))
	unused, err := b.UnusedRegistryImages(ctx, 10)
	b.must(err)
	if len(unused) != 2 {
		t.Fatalf("%d images are unused, want 2", len(unused))
	}
	b.must(b.UsedRegistryManifests(ctx, []registry.Use{{Place: p, Digest: digestOf("index")}}))
	for _, m := range unused {
		removed, err := b.CollectRegistryManifest(ctx, m, true)
		b.must(err)
		if removed != (m.Digest == digestOf("tagged")) {
			t.Errorf("%s is removed: %v", m.Digest, removed)
		}
	}
	if _, err := b.RegistryTag(ctx, p, "v1"); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("the tag of a removed image: %v", err)
	}
}

func testRegistryUploads(t *testing.T, b *registryBooks) {
	ctx, p := t.Context(), registryPlace("app")
	var group sync.WaitGroup
	var grown atomic.Int64
	for i := range 8 {
		group.Go(func() {
			u := registry.Upload{ID: "upload", Place: p, Size: 10, Segments: 1, Algorithm: registry.SHA256, Sum: []byte("state")}
			switch err := b.GrowRegistryUpload(ctx, u, registry.Segment{Size: 10, Path: fmt.Sprint("path", i)}, registryLimits()); nimbus.ErrorCode(err) {
			case "":
				grown.Add(1)
			case nimbus.CodeConflict:
			default:
				t.Error(err)
			}
		})
	}
	group.Wait()
	if grown.Load() != 1 {
		t.Errorf("%d of 8 have begun one upload", grown.Load())
	}
	u, ended, err := b.RegistryUpload(ctx, "upload")
	if err != nil || ended || u.Size != 10 || u.Segments != 1 || string(u.Sum) != "state" {
		t.Errorf("%+v, %v, %v", u, ended, err)
	}
	u.Size, u.Segments = 25, 2
	b.must(b.GrowRegistryUpload(ctx, u, registry.Segment{N: 1, Offset: 10, Size: 15, Path: "second"}, registryLimits()))
	if err := b.GrowRegistryUpload(ctx, u, registry.Segment{N: 1, Offset: 10, Size: 15, Path: "third"}, registryLimits()); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("an upload grows twice from the same place: %v", err)
	}
	stale := u
	stale.Segments = 1
	if err := b.CommitRegistryUpload(ctx, stale, digestOf("blob")); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("an upload that has grown is committed by an old hash: %v", err)
	}
	b.must(b.CommitRegistryUpload(ctx, u, digestOf("blob")))
	if err := b.CommitRegistryUpload(ctx, u, digestOf("blob")); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("an upload is committed twice: %v", err)
	}
	blob, _, err := b.RegistryBlob(ctx, p, digestOf("blob"))
	b.must(err)
	for offset, want := range map[int64]string{0: "path", 9: "path", 10: "second", 24: "second"} {
		segments, err := b.RegistrySegments(ctx, blob.Content, offset, 1)
		if err != nil || len(segments) != 1 || segments[0].Path[:4] != want[:4] {
			t.Errorf("byte %d is in %+v, %v", offset, segments, err)
		}
	}
	b.bytes(25)
	idle := registry.Upload{ID: "idle", Place: p, Size: 7, Segments: 1, Algorithm: registry.SHA256, Sum: []byte("state")}
	b.must(b.GrowRegistryUpload(ctx, idle, registry.Segment{Size: 7, Path: "idle"}, registryLimits()))
	b.must(b.OffsetClock(ctx, time.Hour))
	if n, err := b.GiveUpRegistryUploads(ctx, time.Minute); n != 1 || err != nil {
		t.Errorf("%d idle uploads are given up, %v", n, err)
	}
	b.bytes(25)
}

func testRegistryCounts(t *testing.T, b *registryBooks) {
	ctx, p, other := t.Context(), registryPlace("app"), registryPlace("other")
	b.blob(p, "shared")
	b.blob(other, "shared")
	b.bytes(100)
	b.manifest(p, "m", []string{"v1"}, digestOf("shared"))
	b.manifest(p, "m", []string{"v2"}, digestOf("shared"))
	b.bytes(110)
	l := registryLimits()
	l.Org = 200
	if _, err := b.PutRegistryBlob(ctx, p, registry.Blob{Digest: digestOf("big"), Size: 91, Path: "big"}, l); nimbus.ErrorCode(err) != nimbus.CodeTooLarge {
		t.Errorf("a blob goes over the quota: %v", err)
	}
	b.must(b.SetRegistryQuota(ctx, nimbus.DefaultOrgID, 201, nimbus.AuditEvent{}))
	if _, err := b.PutRegistryBlob(ctx, p, registry.Blob{Digest: digestOf("big"), Size: 91, Path: "big"}, l); err != nil {
		t.Errorf("a blob that has room: %v", err)
	}
	b.bytes(201)
	b.must(b.DropRegistryBlob(ctx, p, digestOf("big")))
	if err := b.DropRegistryBlob(ctx, p, digestOf("shared")); nimbus.ErrorCode(err) != nimbus.CodeConflict {
		t.Errorf("a blob is removed that a manifest names: %v", err)
	}
	b.must(b.DropRegistryBlob(ctx, other, digestOf("shared")))
	b.bytes(110)
}

func testRegistryRepos(t *testing.T, b *registryBooks) {
	ctx, p := t.Context(), registryPlace("app")
	b.manifest(p, "m", []string{"v1", "v2"}, b.blob(p, "blob"))
	b.blob(registryPlace("other"), "blob")
	repos, err := b.RegistryRepos(ctx, nimbus.DefaultOrgID, "", 10)
	b.must(err)
	if len(repos) != 2 || repos[0].Name != "app" || repos[0].Tags != 2 || repos[0].Manifests != 1 || repos[0].Bytes != 100 {
		t.Errorf("the repositories are %+v", repos)
	}
	before, err := b.RegistryEpoch(ctx)
	b.must(err)
	b.must(b.DropRegistryRepo(ctx, p, nimbus.AuditEvent{}))
	after, err := b.RegistryEpoch(ctx)
	b.must(err)
	if after <= before {
		t.Errorf("the epoch is %d after %d", after, before)
	}
	if err := b.DropRegistryRepo(ctx, p, nimbus.AuditEvent{}); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("it is removed twice: %v", err)
	}
	if _, err := b.RegistryTags(ctx, p, "", 10); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("its tags: %v", err)
	}
	b.bytes(100)
	b.must(b.OffsetClock(ctx, 0))
	b.collect(b.looseBlobs(1), 1)
	b.bytes(100)
}
