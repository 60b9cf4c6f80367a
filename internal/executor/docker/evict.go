package docker

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/wholefile"
)

// fetched are the images that this agent had its daemon fetch or import, a file
// each: they can be had again, and only they are ever removed. What an operator
// has in the daemon is the operator's.
type fetched struct {
	dir string

	mu    sync.Mutex
	held  map[string]int           // references of which a container is being made
	going map[string]chan struct{} // those that are being removed; closed when they are
}

// fetchedImage is one of them. When it was used last is the time of its file.
type fetchedImage struct {
	ID         string   `json:"id"`         // of its configuration
	References []string `json:"references"` // that it has in the daemon because of us
	usedAt     time.Time
}

func newFetched(dir string) *fetched {
	return &fetched{dir: dir, held: map[string]int{}, going: map[string]chan struct{}{}}
}

// grip keeps references while a container is made of what they mean: from before
// it is asked what that is, until the daemon has the container.
type grip struct {
	of   *fetched
	kept []string
}

func (f *fetched) grip() *grip { return &grip{of: f} }

// keep waits where what a reference means is being removed, which was not used
// for the longest time until now.
func (g *grip) keep(ctx context.Context, reference string) error {
	f := g.of
	for {
		f.mu.Lock()
		gone, going := f.going[reference]
		if !going {
			f.held[reference]++
			g.kept = append(g.kept, reference)
		}
		f.mu.Unlock()
		if !going {
			return nil
		}
		select {
		case <-gone:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (g *grip) release() {
	f := g.of
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range g.kept {
		if f.held[r]--; f.held[r] == 0 {
			delete(f.held, r)
		}
	}
	g.kept = nil
}

// take has references be kept by nobody from now on; ok is false where somebody
// keeps one.
func (f *fetched) take(references []string) (give func(), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range references {
		if f.held[r] > 0 || f.going[r] != nil {
			return nil, false
		}
	}
	gone := make(chan struct{})
	for _, r := range references {
		f.going[r] = gone
	}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, r := range references {
			delete(f.going, r)
		}
		close(gone)
	}, true
}

func (f *fetched) path(id string) string {
	return filepath.Join(f.dir, hex.EncodeToString([]byte(id))+".json")
}

// note remembers references that an image has because of us. One that was here
// already, and not because of us, is none of these.
func (f *fetched) note(id string, here bool, references ...string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	img := fetchedImage{ID: id}
	raw, err := os.ReadFile(f.path(id))
	if err == nil {
		_ = json.Unmarshal(raw, &img) // one that can't be read is written anew
	} else if here {
		return nil
	}
	for _, r := range references {
		if !slices.Contains(img.References, r) {
			img.References = append(img.References, r)
		}
	}
	if raw, err = json.Marshal(img); err == nil {
		err = errors.Join(os.MkdirAll(f.dir, 0o700), wholefile.Write(f.path(id), raw, 0o600))
	}
	if err != nil {
		return fmt.Errorf("note that image %s was fetched: %w", id, err)
	}
	return nil
}

// noteFetched is note; what can't be noted is not removed one day, no more.
func (i *images) noteFetched(ctx context.Context, p picture, here bool, references ...string) {
	if err := i.fetched.note(p.id, here, references...); err != nil {
		i.cfg.Log.WarnContext(ctx, "an image will stay in docker until somebody removes it", "error", err)
	}
}

// used notes that an image is used now, if it is one of these.
func (f *fetched) used(id string) {
	now := time.Now()
	_ = os.Chtimes(f.path(id), now, now) // not one of these, or it goes a little early
}

// list is all of them, the longest unused first.
func (f *fetched) list() (all []fetchedImage, err error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list fetched images: %w", err)
	}
	for _, e := range entries {
		var img fetchedImage
		info, infoErr := e.Info()
		raw, readErr := os.ReadFile(filepath.Join(f.dir, e.Name()))
		if infoErr != nil || readErr != nil || json.Unmarshal(raw, &img) != nil || f.path(img.ID) != filepath.Join(f.dir, e.Name()) {
			continue // not ours, or torn: its image stays
		}
		img.usedAt = info.ModTime()
		all = append(all, img)
	}
	slices.SortFunc(all, func(a, b fetchedImage) int { return a.usedAt.Compare(b.usedAt) })
	return all, nil
}

// Reclaim implements executor.Reclaimer for the disk that the daemon keeps its
// images on.
func (e *Executor) Reclaim(ctx context.Context, percent int) (freed int64, err error) {
	return e.images.reclaim(ctx, percent)
}

func (i *images) reclaim(ctx context.Context, percent int) (freed int64, err error) {
	all, err := i.fetched.list()
	if err != nil || len(all) == 0 {
		return 0, err
	}
	info, err := i.daemon.info(ctx)
	if err != nil {
		return 0, err
	}
	before, err := executor.DiskOf(info.DockerRootDir)
	if err != nil || before.Over(percent) == 0 {
		return 0, err
	}
	inUse, err := i.daemon.imagesInUse(ctx)
	if err != nil {
		return 0, err
	}
	now := before
	for _, img := range all {
		if now.Over(percent) == 0 {
			break
		}
		if inUse[img.ID] {
			continue
		}
		err = errors.Join(err, i.evict(ctx, img))
		var diskErr error
		if now, diskErr = executor.DiskOf(info.DockerRootDir); diskErr != nil {
			return 0, errors.Join(err, diskErr)
		}
	}
	return max(0, before.Used-now.Used), err
}

// evict takes our names from an image, with the last of which it goes, unless
// a container is being made of it. The daemon refuses where there is one by now.
func (i *images) evict(ctx context.Context, img fetchedImage) error {
	give, ok := i.fetched.take(img.References)
	if !ok {
		return nil
	}
	defer give()
	ctx, cancel := change(ctx)
	defer cancel()
	for _, r := range img.References {
		_, err := i.daemon.api.ImageRemove(ctx, r, client.ImageRemoveOptions{PruneChildren: true})
		if errdefs.IsConflict(err) {
			return nil
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove image %s: %w", r, i.daemon.reason(err))
		}
	}
	if err := os.Remove(i.fetched.path(img.ID)); err != nil {
		return fmt.Errorf("forget image %s: %w", img.ID, err)
	}
	i.cfg.Log.InfoContext(ctx, "removed an image that was not used for the longest time", "image", strings.Join(img.References, ", "), "used", img.usedAt)
	return nil
}
