// Package library is all the images that a host has or can make: those that
// were built, those that were imported, and whatever container image a job
// names, which is converted once and shared by all jobs of the host.
package library

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/ahead"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/flatten"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/rootfs"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/source"
)

// RootsDir is the folder of converted images, in that of the built ones.
const RootsDir = ".roots"

// Defaults of Config.
const (
	DefaultBytes   = 50 << 30
	DefaultRefresh = 24 * time.Hour
	parallel       = 2 // conversions at once: they compress on all cores
	convertTimeout = 20 * time.Minute
)

// Config says what a host's jobs may use. Zero fields mean their defaults.
type Config struct {
	Images  image.Store
	Aliases map[string]string // name -> reference, over DefaultAliases
	Policy  Policy
	Mirrors Mirrors
	// Bytes bounds what converted images take on disk; those in use are kept
	// whatever that is.
	Bytes int64
	// Refresh is after how long a tag is looked up again.
	Refresh time.Duration
	// Asked is the file in which it stands what jobs lately asked for: that is made
	// ahead of jobs, and so are the images of Ahead. "": none are.
	Asked   string
	Ahead   []string
	Limits  flatten.Limits
	Builder string // the host's name, for the attestations
	Log     *slog.Logger
}

// Library implements the microvm executor's Images.
type Library struct {
	cfg   Config
	roots *rootfs.Store
	slots chan struct{}
	ahead *ahead.Keeper

	mu      sync.Mutex
	flights map[string]*flight
}

// New returns the library of a folder of images.
func New(cfg Config) *Library {
	if cfg.Bytes == 0 {
		cfg.Bytes = DefaultBytes
	}
	if cfg.Refresh == 0 {
		cfg.Refresh = DefaultRefresh
	}
	if cfg.Limits == (flatten.Limits{}) {
		cfg.Limits = flatten.Default()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := &Library{
		cfg: cfg, roots: rootfs.Open(filepath.Join(cfg.Images.Dir, RootsDir)),
		slots: make(chan struct{}, parallel), flights: map[string]*flight{},
	}
	if cfg.Asked != "" {
		l.ahead = ahead.New(ahead.Config{File: cfg.Asked, Always: cfg.Ahead, Fetch: l.fetchAhead, Log: cfg.Log})
	}
	return l
}

// KeepImages makes images ahead of jobs until ctx ends: none while may says no.
func (l *Library) KeepImages(ctx context.Context, may func() bool) {
	if l.ahead != nil {
		l.ahead.Run(ctx, may)
	}
}

// fetchAhead has an image be here that no job has asked for now.
func (l *Library) fetchAhead(ctx context.Context, name string) error {
	if _, err := l.cfg.Images.Open(name); err == nil {
		return nil // it was built
	}
	_, err := l.root(ctx, name, ahead.Soon(l.cfg.Refresh), func(string) {})
	return err
}

// Roots is the store of converted images.
func (l *Library) Roots() *rootfs.Store { return l.roots }

// Open finds an image that is here already, of either kind. Whoever will use it
// gets it again: until then it may be removed.
func (l *Library) Open(name string) (image.Image, error) {
	img, err := l.cfg.Images.Open(name)
	if nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		return img, err
	}
	root, rootErr := l.present(name)
	if rootErr != nil {
		return image.Image{}, rootErr
	}
	return l.furnished(name, root)
}

// present finds a container image that was made or imported before.
func (l *Library) present(name string) (rootfs.Root, error) {
	if root, ok, err := l.imported(name); ok {
		return root, err
	}
	canonical, err := l.resolve(name)
	if err != nil {
		return rootfs.Root{}, err
	}
	_, root, err := l.roots.Ref(canonical)
	if err != nil {
		return rootfs.Root{}, err
	}
	return root, l.roots.Check(root)
}

// imported finds what was imported under a name of this host's own. Nobody but
// who imported it can make it again, so one that is not what it was is the
// image's fault. Codes: invalid.
func (l *Library) imported(name string) (root rootfs.Root, ok bool, err error) {
	if isReference(name) {
		return rootfs.Root{}, false, nil
	}
	_, root, err = l.roots.Ref(name)
	if nimbus.ErrorCode(err) == nimbus.CodeNotFound {
		return rootfs.Root{}, false, nil
	}
	if err == nil {
		err = l.roots.Check(root)
	}
	if err != nil {
		return rootfs.Root{}, true, nimbus.Errorf(nimbus.CodeInvalid, "image %q is not what was imported: %w", name, err).
			WithHint("import it again: nimbus images import SOURCE --as %s", name)
	}
	return root, true, nil
}

// furnished gives a container image what a machine needs besides.
func (l *Library) furnished(name string, root rootfs.Root) (image.Image, error) {
	base, err := l.cfg.Images.Open(nimbus.DefaultImage)
	if err != nil {
		return image.Image{}, fmt.Errorf("find a kernel for image %s: %w", name, err)
	}
	return base.WithRoot(name, root.Path(), root.Env), nil
}

// Names lists what is here.
func (l *Library) Names() []string {
	names := l.cfg.Images.Names()
	refs, _ := l.roots.Refs()
	for _, ref := range refs {
		names = append(names, ref.Name)
	}
	return names
}

// Release ends the use of an image.
func (l *Library) Release(user string) error { return l.roots.Release(user) }

// Users lists who uses converted images.
func (l *Library) Users(prefix string) []string { return l.roots.Users(prefix) }

// Get finds the image that a job names, or makes it, which may take minutes and
// is told in words. It is kept until the user releases it.
func (l *Library) Get(ctx context.Context, name, user string, tell func(string)) (image.Image, error) {
	if img, err := l.cfg.Images.Open(name); err == nil || nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		return img, err
	}
	// Before minutes are spent on the rest: there must be a kernel.
	if _, err := l.cfg.Images.Open(nimbus.DefaultImage); err != nil {
		return image.Image{}, fmt.Errorf("find a kernel for image %s: %w", name, err)
	}
	root, err := l.root(ctx, name, l.cfg.Refresh, tell)
	if err != nil {
		return image.Image{}, err
	}
	if err := l.roots.Use(ctx, root, user); err != nil {
		return image.Image{}, err
	}
	if l.ahead != nil {
		l.ahead.Used(name)
	}
	return l.furnished(name, root)
}

// root finds or makes a container image, whose tag is looked up again after some
// time.
func (l *Library) root(ctx context.Context, name string, refresh time.Duration, tell func(string)) (rootfs.Root, error) {
	if root, ok, err := l.imported(name); ok {
		return root, err
	}
	canonical, err := l.resolve(name)
	if err != nil {
		return rootfs.Root{}, err
	}
	ref, root, err := l.roots.Ref(canonical)
	have := err == nil
	if have {
		if err := l.roots.Check(root); err != nil {
			l.cfg.Log.ErrorContext(ctx, "an image was changed; it is made again", "image", name, "error", err)
			have = false
		}
	}
	if have && (source.IsDigest(canonical) || time.Since(ref.At) < refresh) {
		return root, nil
	}
	made, err := l.shared(ctx, canonical, tell)
	if err != nil && have && !lookedUp(err) && ctx.Err() == nil {
		tell(fmt.Sprintf("image %s could not be looked up again, the one of %s is used: %v", name, ref.At.Format(time.DateTime), err))
		return root, nil
	}
	return made, err
}

// lookedUp tells whether it was found out what a name means now: the registry
// was there, and jobs may have it asked.
func lookedUp(err error) bool {
	code := nimbus.ErrorCode(err)
	return code != nimbus.CodeUnavailable && code != nimbus.CodeForbidden
}

// resolve finds what a name means in a registry, and whether it may be used.
func (l *Library) resolve(name string) (canonical string, err error) {
	return l.catalog().Resolve(name, l.Names)
}

func (l *Library) catalog() Catalog {
	return Catalog{Aliases: l.cfg.Aliases, Policy: l.cfg.Policy, Mirrors: l.cfg.Mirrors}
}

// Import converts an image of any source, of any registry, and gives it a name;
// "" means the source's own.
func (l *Library) Import(ctx context.Context, reference, name string, tell func(string)) (rootfs.Ref, rootfs.Root, error) {
	name, err := l.importName(reference, name)
	if err != nil {
		return rootfs.Ref{}, rootfs.Root{}, err
	}
	root, err := l.convert(ctx, reference, nil, tell)
	if err != nil {
		return rootfs.Ref{}, rootfs.Root{}, err
	}
	if alias, ok := l.catalog().alias(name); ok {
		tell(fmt.Sprintf("%s was an alias of %s; jobs in microVMs that say it get the import from now on", name, alias))
	}
	ref := rootfs.Ref{Name: name, Digest: root.Digest, At: time.Now().UTC()}
	return ref, root, l.roots.SetRef(ctx, ref)
}

// collect removes converted images over the host's bound.
func (l *Library) collect(ctx context.Context) {
	if _, err := l.remove(ctx, rootfs.Bounds{Bytes: l.cfg.Bytes, Now: time.Now()}); err != nil {
		l.cfg.Log.WarnContext(ctx, "remove old images", "error", err)
	}
}

// Reclaim removes converted images that no sandbox uses, the longest unused
// first, until so many percent of their disk are in use. It returns how many
// bytes that gave.
func (l *Library) Reclaim(ctx context.Context, percent int) (freed int64, err error) {
	disk, err := executor.DiskOf(filepath.Join(l.cfg.Images.Dir, RootsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // nothing was converted yet
	}
	if err != nil {
		return 0, err
	}
	over := disk.Over(percent)
	if over == 0 {
		return 0, nil
	}
	return l.remove(ctx, rootfs.Bounds{Free: over, Now: time.Now()})
}

func (l *Library) remove(ctx context.Context, b rootfs.Bounds) (freed int64, err error) {
	removed, err := l.roots.Collect(ctx, b, false)
	for _, r := range removed {
		freed += r.Size
		l.cfg.Log.InfoContext(ctx, "removed an image that was not used for the longest time", "image", r.Source, "digest", r.Digest)
	}
	return freed, err
}

// make converts an image of a registry and notes what its name means now. All who
// wait for it are told how far it is, and note is for what none of them may miss.
func (l *Library) make(ctx context.Context, canonical string, tell, note func(string)) (rootfs.Root, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, convertTimeout, errTooLong)
	defer cancel()
	select {
	case l.slots <- struct{}{}:
	default:
		tell("waiting for other images to be converted")
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			return rootfs.Root{}, context.Cause(ctx)
		}
	}
	defer func() { <-l.slots }()
	unlock, err := l.roots.Lock(ctx, canonical)
	if err != nil {
		return rootfs.Root{}, err
	}
	defer unlock()
	root, err := l.fetch(ctx, canonical, tell, note)
	if err != nil {
		if errors.Is(context.Cause(ctx), errTooLong) {
			err = nimbus.Errorf(nimbus.CodeUnavailable, "image %s was not converted within %s: %w", canonical, convertTimeout, err)
		}
		return rootfs.Root{}, err
	}
	if err := l.roots.SetRef(ctx, rootfs.Ref{Name: canonical, Digest: root.Digest, At: time.Now().UTC()}); err != nil {
		return rootfs.Root{}, err
	}
	l.collect(ctx)
	return root, nil
}

// fetch converts an image as the mirror of its registry has it, and where that
// gives none, as the registry has it. Codes: unavailable when the disk is full.
func (l *Library) fetch(ctx context.Context, canonical string, tell, note func(string)) (rootfs.Root, error) {
	own := func() (rootfs.Root, error) {
		return l.convert(ctx, "docker://"+canonical, l.catalog().Named(canonical), tell)
	}
	at, named, ok := l.catalog().Mirror(canonical)
	if !ok {
		return own()
	}
	if _, err := tool(ctx); err != nil {
		return rootfs.Root{}, err // which is no mirror's fault
	}
	root, err := l.converted(ctx, "docker://"+at, named, tell)
	if err == nil || !AskElsewhere(err) || ctx.Err() != nil {
		return root, l.cfg.Images.OrFull(err) // a full disk has no code yet
	}
	note(ToldElsewhere(canonical, at, err))
	return own()
}

var errTooLong = errors.New("it took too long")

// arch is what guests are here.
const arch = runtime.GOARCH
