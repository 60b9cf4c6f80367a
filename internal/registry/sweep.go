package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob"
)

const (
	// atOnce is how many things are looked up at once, of which collectAtOnce are
	// removed in one transaction.
	atOnce        = 500
	collectAtOnce = 50
	// deletesAtOnce is how many contents are removed at once.
	deletesAtOnce = 4
	// orphanPages is how many pages of contents are looked through in one sweep; the
	// next one goes on there.
	orphanPages = 20
	// Images make room where more than evictFrom of a quota is used, until no more
	// than evictTo is.
	evictFrom, evictTo = 0.9, 0.8
)

// Sweep gives idle uploads up, has images go that the rules of their repositories
// no longer keep, then manifests that nothing names, blobs that no manifest names,
// and content that no blob names. It may be called at any time, while others push,
// by one replica or by many; what fails is done by the next.
func (s *Service) Sweep(ctx context.Context) error {
	_, err := s.Collect(ctx)
	return err
}

// Collect is Sweep that tells what it has removed.
func (s *Service) Collect(ctx context.Context) (done nimbus.ImagesSwept, err error) {
	errs := make([]error, 0, 9)
	for _, part := range []struct {
		what string
		n    *int
		do   func(context.Context) (int, error)
	}{
		{"give idle uploads up", &done.Uploads, func(ctx context.Context) (int, error) { return s.store.GiveUpRegistryUploads(ctx, s.limits.Idle) }},
		{"remove images that nobody uses", &done.Images, s.dropUnused},
		{"have images make room", &done.Images, s.evict},
		{"remove what nobody pulls of mirrors", &done.Images, s.dropUnusedMirrored},
		{"have what mirrors fetched make room", &done.Blobs, s.evictAllMirrored},
		{"remove manifests that nothing names", &done.Manifests, s.dropLooseManifests},
		{"remove blobs that no manifest names", &done.Blobs, s.dropLooseBlobs},
		{"remove what is garbage", &done.Contents, s.clear},
		{"remove content that nothing names", &done.Orphans, func(ctx context.Context) (int, error) { return s.orphans.sweep(ctx, s) }},
	} {
		n, err := part.do(ctx)
		*part.n += n
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", part.what, err))
		}
	}
	if done.Images+done.Manifests+done.Blobs > 0 {
		s.known.forget()
	}
	if done != (nimbus.ImagesSwept{}) {
		s.log.InfoContext(ctx, "the registry was swept", "idle_uploads", done.Uploads, "images", done.Images, "manifests", done.Manifests,
			"blobs", done.Blobs, "contents", done.Contents, "orphans", done.Orphans)
	}
	return done, errors.Join(errs...)
}

// dropLooseBlobs looks for blobs that may go, then removes those that still may.
func (s *Service) dropLooseBlobs(ctx context.Context) (n int, err error) {
	for after := (Loose{}); ctx.Err() == nil; {
		loose, err := s.store.LooseRegistryBlobs(ctx, s.limits.Grace, after, atOnce)
		if err != nil {
			return n, err //nolint:wrapcheck // told by Collect
		}
		for part := range slices.Chunk(loose, collectAtOnce) {
			removed, err := s.store.CollectRegistryBlobs(ctx, s.limits.Grace, part)
			if err != nil {
				return n, err //nolint:wrapcheck // told by Collect
			}
			n += removed
		}
		if len(loose) < atOnce {
			break
		}
		after = loose[len(loose)-1]
	}
	return n, nil
}

// dropLooseManifests removes one kind after the other: what an index names goes
// when the index has gone.
func (s *Service) dropLooseManifests(ctx context.Context) (n int, err error) {
	for after := (Loose{}); ctx.Err() == nil; {
		loose, err := s.store.LooseRegistryManifests(ctx, s.limits.Untagged, after, atOnce)
		if err != nil {
			return n, err //nolint:wrapcheck // told by Collect
		}
		removed, err := s.collect(ctx, loose, false)
		n += removed
		if err != nil || len(loose) < atOnce {
			return n, err
		}
		after = loose[len(loose)-1]
	}
	return n, nil
}

// dropUnused removes images that the rules of their repositories do not keep.
func (s *Service) dropUnused(ctx context.Context) (n int, err error) {
	for ctx.Err() == nil {
		unused, err := s.store.UnusedRegistryImages(ctx, atOnce)
		if err != nil {
			return n, err //nolint:wrapcheck // told by Collect
		}
		removed, err := s.collect(ctx, unused, true)
		n += removed
		if err != nil || removed == 0 || len(unused) < atOnce {
			return n, err
		}
	}
	return n, nil
}

func (s *Service) collect(ctx context.Context, all []Loose, tagged bool) (n int, err error) {
	for _, m := range all {
		removed, err := s.store.CollectRegistryManifest(ctx, m, tagged)
		if err != nil {
			return n, err //nolint:wrapcheck // told by Collect
		}
		if removed {
			n++
		}
	}
	return n, nil
}

// evict has the least recently used images go of orgs whose quota is nearly used,
// in the repositories that allow it. What blobs they alone had goes after the
// grace, so that a sweep does not remove more than it needs to: it goes by what the
// images say that they have.
func (s *Service) evict(ctx context.Context) (n int, err error) {
	for after := ""; ctx.Err() == nil; {
		orgs, err := s.store.RegistryUsageOfOrgs(ctx, after, atOnce)
		if err != nil {
			return n, err //nolint:wrapcheck // told by Collect
		}
		for _, u := range orgs {
			u = s.usual(u)
			if !IsMirrored(u.OrgID) && float64(u.Bytes) > evictFrom*float64(u.Quota) {
				evicted, err := s.evictOf(ctx, u)
				n += evicted
				if err != nil {
					return n, err
				}
			}
			after = u.OrgID
		}
		if len(orgs) < atOnce {
			break
		}
	}
	return n, nil
}

func (s *Service) evictOf(ctx context.Context, u nimbus.ImageUsage) (n int, err error) {
	oldest, err := s.store.OldestRegistryImages(ctx, u.OrgID, s.limits.Grace, atOnce)
	if err != nil {
		return 0, err //nolint:wrapcheck // told by Collect
	}
	for _, m := range oldest {
		if float64(u.Bytes) <= evictTo*float64(u.Quota) {
			break
		}
		removed, err := s.store.CollectRegistryManifest(ctx, m, true)
		if err != nil {
			return n, err //nolint:wrapcheck // told by Collect
		}
		if removed {
			n++
			u.Bytes -= m.Size
		}
	}
	return n, nil
}

// clear removes garbage, then its rows: a crash in between leaves the rows, and so
// the next sweep goes on.
func (s *Service) clear(ctx context.Context) (n int, err error) {
	for after := (Garbage{}); ctx.Err() == nil; {
		all, err := s.store.RegistryGarbage(ctx, s.limits.Read, after, atOnce)
		if err != nil {
			return n, err //nolint:wrapcheck // told by Collect
		}
		for part := range slices.Chunk(all, collectAtOnce) {
			if err := s.delete(ctx, part); err != nil {
				return n, err //nolint:wrapcheck // told by Collect
			}
			if err := s.store.ForgetRegistryGarbage(ctx, part); err != nil {
				return n, err //nolint:wrapcheck // told by Collect
			}
			n += len(part)
		}
		if len(all) < atOnce {
			break
		}
		after = all[len(all)-1]
	}
	return n, nil
}

// delete removes contents, some at once: a bucket takes its time for each.
func (s *Service) delete(ctx context.Context, all []Garbage) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(deletesAtOnce)
	for _, g := range all {
		group.Go(func() error { return s.blobs.Delete(ctx, key(g.OrgID, g.Path)) })
	}
	return group.Wait() //nolint:wrapcheck // told by Collect
}

// orphans is how far contents were looked through.
type orphans struct {
	mu    sync.Mutex
	after string
}

// sweep looks through some of all contents for those that nothing names: of calls
// that a crash ended.
func (o *orphans) sweep(ctx context.Context, s *Service) (n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for range orphanPages {
		page, err := s.blobs.List(ctx, root, o.after, blob.MaxList)
		if err != nil {
			return n, err //nolint:wrapcheck // told by Collect
		}
		dropped, err := s.dropOrphans(ctx, page)
		n += dropped
		if err != nil {
			return n, err
		}
		if len(page) < blob.MaxList {
			o.after = ""
			return n, nil
		}
		o.after = page[len(page)-1].Key
	}
	return n, nil
}

// dropOrphans removes those of a page that are old and have no row.
func (s *Service) dropOrphans(ctx context.Context, page []blob.Listed) (n int, err error) {
	old := s.clock.Now().Add(-s.limits.Orphan)
	page = slices.DeleteFunc(page, func(b blob.Listed) bool { return b.ModifiedAt.After(old) })
	for len(page) > 0 {
		folder, _ := cutName(page[0].Key)
		of := 1
		for of < len(page) && strings.HasPrefix(page[of].Key, folder+"/") {
			of++
		}
		dropped, err := s.dropOrphansOf(ctx, folder, page[:of])
		n += dropped
		if err != nil {
			return n, err
		}
		page = page[of:]
	}
	return n, nil
}

func cutName(key string) (folder, name string) {
	i := strings.LastIndexByte(key, '/')
	return key[:i], key[i+1:]
}

func (s *Service) dropOrphansOf(ctx context.Context, folder string, all []blob.Listed) (n int, err error) {
	org := strings.TrimPrefix(folder, root)
	_, first := cutName(all[0].Key)
	_, last := cutName(all[len(all)-1].Key)
	paths, err := s.store.NamedRegistryPaths(ctx, org, first, last)
	if err != nil {
		return 0, err //nolint:wrapcheck // told by Collect
	}
	named := make(map[string]bool, len(paths))
	for _, path := range paths {
		named[path] = true
	}
	for _, b := range all {
		if _, name := cutName(b.Key); !named[name] {
			s.log.InfoContext(ctx, "content that nothing names is removed from the registry", "key", b.Key, "bytes", b.Size)
			if err := s.blobs.Delete(ctx, b.Key); err != nil {
				return n, err //nolint:wrapcheck // told by Collect
			}
			n++
		}
	}
	return n, nil
}
