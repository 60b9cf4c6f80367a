// Package microvm gives each job a virtual machine of its own: booted for it
// from an image that nothing can change, on a disk and in a network that end
// with it.
package microvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/claims"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/filesum"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/snapshot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/executor/scratch"
	"github.com/nimbus-ci/nimbus/internal/shim"
)

// How long a machine may take until its guest answers, where Config says
// nothing. One that has not booted by then never will.
const (
	bootTimeout     = 20 * time.Second
	bootTimeoutSlow = 100 * time.Second // emulated, on a busy host
)

// bootTries is how often a machine is booted until that is given up.
const bootTries = 2

// maxThreads is how many threads a monitor may have: one per CPU, a pool for
// its disks, itself.
const maxThreads = 512

// DefaultDiskMiB is the size of a job's own disk where Config says nothing.
const DefaultDiskMiB = scratch.DefaultMiB

// Config is what the executor needs.
type Config struct {
	Shim, Guest string // paths of the programs
	// Owner tells this agent's cgroups and namespaces from those of another one
	// on the machine: lower-case letters and digits.
	Owner string
	// Dir keeps what machines share (initrds, empty disks, snapshots) and those
	// that wait for a job. It is on the disk that sandboxes' folders are on.
	Dir string
	// Snapshots is the folder of machines that were saved. Default: in Dir.
	Snapshots string
	Images    Images
	Driver    vmm.Driver
	// Relays are ports of the gateway that every guest can reach, as
	// GatewayName, whatever its network profile.
	Relays []netslot.Relay
	// Resolvers are asked for the names that guests look for, host:port.
	// Default: those of the host.
	Resolvers []string
	// DiskMiB is how much a job can write. Default DefaultDiskMiB. Space is
	// taken as it is written.
	DiskMiB int
	// BootTimeout is how long a machine may take to boot. Default: what even a
	// busy host needs.
	BootTimeout time.Duration
	Warm        WarmConfig
	Log         *slog.Logger
}

// Images are what machines boot from: an image.Store, or a library that also
// converts container images.
type Images interface {
	// Open finds an image that is here. Codes: not_found, with how to get it.
	Open(name string) (image.Image, error)
	// Get finds an image or makes it, and keeps it until user releases it. What
	// takes long is told.
	Get(ctx context.Context, name, user string, tell func(string)) (image.Image, error)
	Release(user string) error
	// Users lists who has not released an image, of those whose names begin so.
	Users(prefix string) []string
	// Names lists the images that are here.
	Names() []string
}

// reclaimer are Images that can be made again.
type reclaimer interface {
	Reclaim(ctx context.Context, percent int) (freed int64, err error)
}

// fetcher are Images that can be made ahead of jobs.
type fetcher interface {
	KeepImages(ctx context.Context, may func() bool)
}

// KeepImages implements executor.Fetcher.
func (e *Executor) KeepImages(ctx context.Context, may func() bool) {
	if f, ok := e.cfg.Images.(fetcher); ok {
		f.KeepImages(ctx, may)
	}
}

// Reclaim implements executor.Reclaimer.
func (e *Executor) Reclaim(ctx context.Context, percent int) (freed int64, err error) {
	if r, ok := e.cfg.Images.(reclaimer); ok {
		return r.Reclaim(ctx, percent)
	}
	return 0, nil
}

// GatewayName is how guests call the gateway.
const GatewayName = netslot.GatewayName

// Executor implements executor.Executor.
type Executor struct {
	cfg   Config
	slots *netslot.Manager
	disks *scratch.Maker

	processor func() (processor, error)

	files   filesum.Book // of built images
	digests digests      // of snapshots' inputs
	owned   claims.Set
	claims  claims.Book
	warm    warm
	stock   stock
	saving  sync.Mutex // held while a snapshot is made

	mu     sync.Mutex // held while shared files are made
	usable bool       // Status has seen that slots can be made
}

// New returns the executor.
func New(cfg Config) *Executor {
	if cfg.DiskMiB == 0 {
		cfg.DiskMiB = DefaultDiskMiB
	}
	if cfg.Snapshots == "" {
		cfg.Snapshots = filepath.Join(cfg.Dir, "snapshots")
	}
	return &Executor{
		cfg: cfg, claims: claims.Book{Dir: filepath.Join(cfg.Dir, "claims")}, warm: warm{kick: make(chan struct{}, 1)}, processor: sync.OnceValues(readProcessor),
		disks: &scratch.Maker{Dir: cfg.Dir, MiB: cfg.DiskMiB},
		slots: netslot.New(netslot.Config{Owner: cfg.Owner, Relays: cfg.Relays, Resolvers: cfg.Resolvers, Log: cfg.Log}),
	}
}

// Name is "microvm".
func (e *Executor) Name() string { return nimbus.ExecutorMicroVM }

// Status tells what monitor there is, and what is missing to use it.
func (e *Executor) Status(ctx context.Context) nimbus.ExecutorStatus {
	s := nimbus.ExecutorStatus{Name: e.Name()}
	caps, err := e.check(ctx)
	if err != nil {
		s.Detail, s.Hint = err.Error(), nimbus.ErrorHint(err)
		return s
	}
	s.Available, s.Lacks = true, lacks(caps)
	s.Detail = fmt.Sprintf("%s; images: %s", caps.Version, strings.Join(e.cfg.Images.Names(), ", "))
	return s
}

// lacks are the words for hardware that a guest never has, whatever the machine
// has: there is no device of it inside but disk, network and port, no module for
// KVM, and the processor is the monitor's.
func lacks(caps vmm.Caps) nimbus.Capabilities {
	words := slices.DeleteFunc([]string{"amx", "avx2", "avx512", "cuda", "kvm"}, func(word string) bool {
		return slices.Contains(caps.Processor.Words(), word)
	})
	return nimbus.Capabilities(strings.Join(words, " "))
}

func (e *Executor) check(ctx context.Context) (vmm.Caps, error) {
	if runtime.GOARCH != "amd64" {
		return vmm.Caps{}, nimbus.Errorf(nimbus.CodeUnavailable, "microVMs are made on amd64, this is %s", runtime.GOARCH).
			WithHint("use another machine")
	}
	caps, err := e.cfg.Driver.Probe(ctx)
	if err != nil {
		return vmm.Caps{}, err
	}
	if err := scratch.Check(); err != nil {
		return vmm.Caps{}, err
	}
	if err := e.checkSlots(ctx); err != nil {
		return vmm.Caps{}, err
	}
	img, err := e.cfg.Images.Open(nimbus.DefaultImage)
	if err != nil {
		return vmm.Caps{}, err
	}
	return caps, img.Check(&e.files)
}

// checkSlots tries until it has worked once.
func (e *Executor) checkSlots(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.usable {
		return nil
	}
	if err := e.slots.Check(ctx); err != nil {
		return err
	}
	e.usable = true
	return nil
}

// Create gives a machine to a job: one that waits, one that is made of a
// snapshot, or one that boots. Class.Image must be on this host.
func (e *Executor) Create(ctx context.Context, spec executor.Spec) (executor.Sandbox, error) {
	laps := newLaps()
	img, err := e.image(ctx, spec)
	if err != nil {
		return nil, err
	}
	held := e.cgroup(spec.ID)
	r, err := e.recipeOf(ctx, spec.Class, img)
	if err != nil {
		return nil, errors.Join(err, e.cfg.Images.Release(held))
	}
	laps.lap("image")
	if s := e.takeWarm(ctx, r, spec, laps); s != nil {
		laps.log(ctx, e.cfg.Log, s)
		if err := e.cfg.Images.Release(held); err != nil { // the machine holds it under its own name
			return nil, errors.Join(err, s.Destroy(context.WithoutCancel(ctx)))
		}
		return s, nil
	}
	s := &sandbox{executor: e, id: spec.ID, machine: spec.ID, dir: spec.Dir, env: img.Env(), origin: nimbus.OriginCold, laps: laps}
	from := e.fitting(ctx, r, spec)
	if err := e.furnish(ctx, s, from, spec); err != nil {
		return nil, errors.Join(err, s.Destroy(context.WithoutCancel(ctx)))
	}
	laps.lap("furnish")
	if from != nil && e.wakeOne(ctx, s, r, *from, spec.Deadline) {
		laps.log(ctx, e.cfg.Log, s)
		return s, nil
	}
	for try := 1; ; try++ {
		if err := e.boot(ctx, s, r.machine(s), r, spec.Deadline); err == nil {
			laps.log(ctx, e.cfg.Log, s)
			return s, nil
		} else if ctx.Err() != nil || try == bootTries || isImageFault(err) {
			return nil, errors.Join(err, s.Destroy(context.WithoutCancel(ctx)))
		} else {
			e.cfg.Log.WarnContext(ctx, "boot once more", "sandbox", spec.ID, "error", err)
		}
	}
}

// furnish makes the network of a machine that is to be made for a job, and at
// the same time its disk, where that is a snapshot's.
func (e *Executor) furnish(ctx context.Context, s *sandbox, from *snapshot.Snapshot, spec executor.Spec) error {
	var both errgroup.Group
	both.Go(func() error {
		machine, slot, err := e.sandboxNetwork(ctx, spec)
		if err != nil {
			return err
		}
		s.machine, s.slot = machine, slot
		return nil
	})
	if from != nil {
		both.Go(func() error { return layDisk(s, *from) })
	}
	return both.Wait()
}

// image gets what the class names, in use by this sandbox from now on.
func (e *Executor) image(ctx context.Context, spec executor.Spec) (image.Image, error) {
	tell := spec.Tell
	if tell == nil {
		tell = func(string) {}
	}
	img, err := e.cfg.Images.Get(ctx, spec.Class.Image, e.cgroup(spec.ID), tell)
	switch nimbus.ErrorCode(err) {
	case nimbus.CodeNotFound, nimbus.CodeForbidden, nimbus.CodeInvalid, nimbus.CodeTooLarge:
		return image.Image{}, &executor.ImageError{Err: err}
	}
	return img, err
}

// boot starts the machine and waits until its guest answers.
func (e *Executor) boot(ctx context.Context, s *sandbox, m vmm.Machine, r recipe, deadline time.Duration) error {
	if err := clearDir(s.dir); err != nil {
		return err
	}
	if err := e.disks.Make(ctx, filepath.Join(s.dir, diskFile)); err != nil {
		return err
	}
	s.laps.lap("disk")
	if err := e.start(ctx, s, m, r.caps, deadline); err != nil {
		return err
	}
	s.laps.lap("monitor")
	ctx, done := s.untilEnd(ctx)
	defer done()
	err := e.cfg.Driver.Boot(ctx, m)
	if err == nil {
		err = s.awaitGuest(ctx, e.bootTimeout(r.caps))
	}
	s.laps.lap("guest")
	if err != nil {
		if fault := imageFault(s.Shim.Output(panicBytes)); fault != "" {
			err = &executor.ImageError{Err: nimbus.Errorf(nimbus.CodeInvalid, "no machine starts from image %s: %s", r.class.Image, fault).
				WithHint("a machine needs folders at /dev, /proc, /sys, /etc, /run, /tmp and /workspace, or nothing there")}
		}
		return errors.Join(err, s.End(context.WithoutCancel(ctx)))
	}
	return nil
}

func (e *Executor) bootTimeout(caps vmm.Caps) time.Duration {
	switch {
	case e.cfg.BootTimeout > 0:
		return e.cfg.BootTimeout
	case caps.Accelerated:
		return bootTimeout
	}
	return bootTimeoutSlow
}

// clearDir removes what a first try has left.
func clearDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read sandbox folder: %w", err)
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("clear sandbox folder: %w", err)
		}
	}
	return nil
}

// Adopt finds the machine of an earlier process of the agent.
func (e *Executor) Adopt(ctx context.Context, id, dir string) (executor.Sandbox, error) {
	client, err := shim.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nimbus.Errorf(nimbus.CodeNotFound, "there is no sandbox %s", id)
	}
	if err != nil {
		return nil, fmt.Errorf("adopt sandbox: %w", err)
	}
	machine, err := e.claims.MachineOf(id)
	if err != nil {
		return nil, fmt.Errorf("adopt sandbox: %w", err)
	}
	slot, err := e.slots.Adopt(machine)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// It must be possible to destroy it all the same.
		e.cfg.Log.WarnContext(ctx, "adopted without network", "sandbox", id, "error", err)
	}
	return &sandbox{Shimmed: executor.Shimmed{Shim: client}, executor: e, id: id, machine: machine, dir: dir, slot: slot}, nil
}

// Sweep removes machines and networks that aren't kept.
func (e *Executor) Sweep(ctx context.Context, keep func() []string) ([]string, error) {
	ids, err := e.present()
	if err != nil {
		return nil, fmt.Errorf("sweep: %w", err)
	}
	// A machine that waits may be given to a job at any moment. One that is
	// nobody's here was so before its job was asked for.
	ids = slices.DeleteFunc(ids, e.owned.Has)
	kept := keep()
	var removed []string
	for _, id := range ids {
		owner, ownerErr := e.claims.Owner(id)
		if ownerErr != nil || slices.Contains(kept, owner) {
			err = errors.Join(err, ownerErr)
			continue
		}
		if rmErr := e.remove(ctx, id); rmErr != nil {
			err = errors.Join(err, fmt.Errorf("sweep %s: %w", id, rmErr))
			continue
		}
		removed = append(removed, id)
	}
	if tidyErr := errors.Join(e.slots.Tidy(ctx), e.Snapshots().Tidy()); tidyErr != nil {
		err = errors.Join(err, fmt.Errorf("sweep: %w", tidyErr))
	}
	return removed, err
}

// present lists the machines of which there is anything on this host: a
// network, a cgroup with or without processes, a use of an image, a folder, a
// claim. All of them have the machine's name.
func (e *Executor) present() ([]string, error) {
	ids, err := e.slots.List()
	if err != nil {
		return nil, err
	}
	groups, err := shim.Cgroups(e.cgroup(""))
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Concat(groups, e.cfg.Images.Users(e.cgroup(""))) {
		ids = append(ids, strings.TrimPrefix(name, e.cgroup("")))
	}
	for _, dir := range []string{e.machinesDir(), e.claims.Dir} {
		more, err := claims.Names(dir)
		if err != nil {
			return nil, err
		}
		ids = append(ids, more...)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// remove removes everything of a machine outside of its sandbox' folder, and
// kills it if its shim has not.
func (e *Executor) remove(ctx context.Context, id string) error {
	if _, err := shim.RemoveCgroup(e.cgroup(id)); err != nil {
		return err
	}
	if err := e.slots.Remove(ctx, id); err != nil {
		return err
	}
	if err := e.cfg.Images.Release(e.cgroup(id)); err != nil {
		return err
	}
	return e.forget(id)
}

func (e *Executor) cgroup(id string) string { return e.cfg.Owner + "-microvm-" + id }
