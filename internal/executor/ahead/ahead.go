// Package ahead has images be on a host before the next job wants them: those that
// jobs of the host lately asked for, and those that its operator names. What a tag
// means is looked up while nobody waits for it, and an image that has gone is
// fetched again. What is remembered survives the agent.
package ahead

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus/internal/wholefile"
)

const (
	// Images is how many are fetched ahead.
	Images = 10
	// recent is how long an image counts that no job asked for.
	recent = 7 * 24 * time.Hour
	// remembered is how many names are remembered: they are the tenants' choice.
	remembered = 200
	maxFile    = 1 << 20
	// every is how often a keeper looks what there is to do, pause how long an image
	// is left alone after it was seen to, failed how long after that went wrong.
	every         = time.Minute
	pause, failed = 6 * time.Hour, time.Hour
)

// Config is what a keeper needs.
type Config struct {
	// File keeps what jobs asked for. Its folder is made.
	File string
	// Always are images that count as asked for at any time.
	Always []string
	// Fetch has an image be here, and what its tag means be looked up where that was
	// long ago. It has a bound of its own.
	Fetch func(ctx context.Context, name string) error
	Log   *slog.Logger
}

// Keeper fetches images ahead. Used may be called at any time, Run by one goroutine.
type Keeper struct {
	cfg Config

	mu    sync.Mutex
	used  map[string]time.Time // when a job asked for it last
	dirty bool

	next map[string]time.Time // Run's: when to see to an image again
}

// New returns a keeper that knows what was asked for before.
func New(cfg Config) *Keeper {
	k := &Keeper{cfg: cfg, used: map[string]time.Time{}, next: map[string]time.Time{}}
	if err := k.load(); err != nil {
		cfg.Log.Warn("which images jobs asked for is not known any more", "error", err)
	}
	return k
}

func (k *Keeper) load() error {
	info, err := os.Stat(k.cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read which images jobs asked for: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return fmt.Errorf("%s is no list of images", k.cfg.File)
	}
	text, err := os.ReadFile(k.cfg.File)
	if err == nil {
		err = json.Unmarshal(text, &k.used)
	}
	if err != nil || k.used == nil { // null is one, too
		k.used = map[string]time.Time{}
	}
	if err != nil {
		return fmt.Errorf("read which images jobs asked for: %w", err)
	}
	k.forget()
	return nil
}

// forget has no more be remembered than there may; k.mu is held, or nobody else has k.
func (k *Keeper) forget() {
	over := len(k.used) - remembered
	if over <= 0 {
		return
	}
	names := slices.SortedFunc(maps.Keys(k.used), func(a, b string) int { return k.used[a].Compare(k.used[b]) })
	for _, name := range names[:over] {
		delete(k.used, name)
	}
}

// Soon is after how long a tag is looked up ahead that is looked up for jobs after
// refresh: sooner, so that no job waits for that.
func Soon(refresh time.Duration) time.Duration { return refresh / 4 * 3 }

// Used notes that a job asked for an image, and got it.
func (k *Keeper) Used(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.used[name] = time.Now().UTC()
	k.dirty = true
	k.forget()
}

// wanted are the images that are to be here, the one that was asked for last first.
func (k *Keeper) wanted(now time.Time) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	names := slices.Clone(k.cfg.Always)
	var asked []string
	for name, at := range k.used {
		if now.Sub(at) < recent && !slices.Contains(names, name) {
			asked = append(asked, name)
		}
	}
	slices.SortFunc(asked, func(a, b string) int { return cmp.Or(k.used[b].Compare(k.used[a]), cmp.Compare(a, b)) })
	names = append(names, asked...)
	return names[:min(len(names), Images)]
}

// Run sees to images until ctx ends: one after the other, and none while may says
// no.
func (k *Keeper) Run(ctx context.Context, may func() bool) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		for ctx.Err() == nil && may() && k.step(ctx) {
		}
		k.save(ctx)
		select {
		case <-ctx.Done():
			k.save(ctx)
			return
		case <-tick.C:
		}
	}
}

// step sees to one image, if there is one to see to.
func (k *Keeper) step(ctx context.Context) bool {
	now := time.Now()
	names := k.wanted(now)
	for name := range k.next {
		if !slices.Contains(names, name) {
			delete(k.next, name)
		}
	}
	i := slices.IndexFunc(names, func(name string) bool { return !now.Before(k.next[name]) })
	if i < 0 {
		return false
	}
	again := pause
	if err := k.cfg.Fetch(ctx, names[i]); err != nil {
		again = failed
		if ctx.Err() == nil {
			k.cfg.Log.InfoContext(ctx, "an image that jobs may want could not be fetched ahead", "image", names[i], "error", err, "again", again)
		}
	}
	k.next[names[i]] = time.Now().Add(again)
	return true
}

// save writes down what was asked for since the last time.
func (k *Keeper) save(ctx context.Context) {
	k.mu.Lock()
	dirty := k.dirty
	k.dirty = false
	text, err := json.Marshal(k.used)
	k.mu.Unlock()
	if !dirty {
		return
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(k.cfg.File), 0o700)
	}
	if err == nil {
		err = wholefile.Write(k.cfg.File, text, 0o600)
	}
	if err != nil {
		k.cfg.Log.WarnContext(ctx, "which images jobs asked for could not be written down", "error", err)
	}
}
