// Package docker gives each job a container of its own: made by the machine's
// docker daemon of an image, with the guest as its first process, in a network
// that ends with it. It starts fast and is for code that may share a kernel with
// its host; jobs of strangers belong in microVMs.
//
// The daemon makes containers and nothing else. A shim holds the first process
// of each, and with its end all others end, whatever has become of the agent and
// of the daemon; see docs/adr/0013-docker-executor.md.
package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/claims"
	"github.com/nimbus-ci/nimbus/internal/executor/docker/runnerkit"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/pool"
	"github.com/nimbus-ci/nimbus/internal/executor/scratch"
	"github.com/nimbus-ci/nimbus/internal/shim"
)

// DefaultHost is where the daemon is.
const DefaultHost = "unix:///var/run/docker.sock"

// startTimeout bounds the start of a container, up to where its guest answers.
const startTimeout = time.Minute

// Config is what the executor needs.
type Config struct {
	// Name is what the executor is called. Default nimbus.ExecutorDocker.
	Name        string
	Shim, Guest string // paths of the programs
	// Runner is the program that takes GitHub's jobs, "" for none. It starts
	// GitHub's own runner, which comes from the image nimbus.DefaultImage of Built.
	Runner string
	// StandIn says that what gives GitHub's jobs is a double of GitHub, whose
	// runner Runner is itself.
	StandIn bool
	// Host is where the daemon is: unix:///PATH. Default DefaultHost.
	Host string
	// Owner tells this agent's containers and networks from those of another one
	// on the machine: lower-case letters and digits.
	Owner string
	// Dir keeps what sandboxes share, and those that wait for a job. It is on the
	// disk that sandboxes' folders are on.
	Dir string
	// Built are images that jobs may name by a word alone, made by Nimbus: they
	// are imported at their first use.
	Built image.Store
	// Catalog says what other names mean, and which may be used.
	Catalog library.Catalog
	// Refresh is after how long a tag is looked up again. Default
	// library.DefaultRefresh.
	Refresh time.Duration
	// Ahead are images that are fetched before any job asks for them, beside those
	// that jobs lately asked for.
	Ahead []string
	// Relays are ports of the gateway that every container can reach, as
	// GatewayName, whatever its network profile.
	Relays []netslot.Relay
	// Resolvers are asked for the names that jobs look for, host:port. Default:
	// those of the host.
	Resolvers []string
	// DiskMiB is how much a job can write to each of its disks. Default
	// scratch.DefaultMiB. Space is taken as it is written.
	DiskMiB int
	Warm    WarmConfig
	Log     *slog.Logger
}

// GatewayName is how jobs call the gateway.
const GatewayName = netslot.GatewayName

// Executor implements executor.Executor.
type Executor struct {
	cfg    Config
	daemon *daemon
	slots  *netslot.Manager
	disks  *scratch.Maker
	images *images
	kits   *runnerkit.Store
	check  checks
	warm   *pool.Keeper[*box]
	unfit  unfit
	owned  claims.Set
	claims claims.Book
}

// New returns the executor. Codes: invalid for a host that is none.
func New(cfg Config) (*Executor, error) {
	if cfg.Name == "" {
		cfg.Name = nimbus.ExecutorDocker
	}
	if cfg.Host == "" {
		cfg.Host = DefaultHost
	}
	if cfg.DiskMiB == 0 {
		cfg.DiskMiB = scratch.DefaultMiB
	}
	if cfg.Refresh == 0 {
		cfg.Refresh = library.DefaultRefresh
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	for _, path := range []*string{&cfg.Guest, &cfg.Runner, &cfg.Dir} {
		if err := absolute(path); err != nil {
			return nil, err
		}
	}
	d, err := newDaemon(cfg.Host, cfg.Owner)
	if err != nil {
		return nil, err
	}
	e := &Executor{
		cfg: cfg, daemon: d, images: newImages(d, cfg), claims: claims.Book{Dir: filepath.Join(cfg.Dir, "claims")},
		disks: &scratch.Maker{Dir: cfg.Dir, MiB: cfg.DiskMiB}, kits: &runnerkit.Store{Dir: filepath.Join(cfg.Dir, "runner")},
		slots: netslot.New(netslot.Config{
			// The microVMs of the same agent have slots of their own.
			Owner: cfg.Owner + "d", Pairs: true, Relays: cfg.Relays, Resolvers: cfg.Resolvers, Log: cfg.Log,
		}),
	}
	e.warm = pool.NewKeeper(maker{e}, pool.Bounds{Sandboxes: cfg.Warm.Containers, MemoryMiB: cfg.Warm.MemoryMiB, IdleMiB: idleMiB}, cfg.Log)
	return e, nil
}

// absolute makes a path one that the daemon understands.
func absolute(path *string) error {
	if *path == "" {
		return nil
	}
	var err error
	if *path, err = filepath.Abs(*path); err != nil {
		return fmt.Errorf("find the programs of sandboxes: %w", err)
	}
	return nil
}

// Name is "docker", or what it is called in its configuration.
func (e *Executor) Name() string { return e.cfg.Name }

// Create gives a container to a job: one that waits, or one that is made for it.
func (e *Executor) Create(ctx context.Context, spec executor.Spec) (executor.Sandbox, error) {
	return e.create(ctx, spec, nil)
}

func (e *Executor) create(ctx context.Context, spec executor.Spec, devices *Devices) (executor.Sandbox, error) {
	tell := spec.Tell
	if tell == nil {
		tell = func(string) {}
	}
	g := e.images.fetched.grip()
	defer g.release()
	p, err := e.images.get(ctx, g, spec.Class.Image, tell)
	switch nimbus.ErrorCode(err) {
	case nimbus.CodeNotFound, nimbus.CodeForbidden, nimbus.CodeInvalid, nimbus.CodeTooLarge:
		return nil, &executor.ImageError{Err: err}
	}
	if err != nil {
		return nil, err
	}
	c := e.carry(ctx)
	if devices == nil {
		if s := e.takeWarm(ctx, p, c, spec); s != nil {
			return s, nil
		}
	}
	s := &sandbox{
		executor: e, id: spec.ID, machine: spec.ID, dir: spec.Dir, picture: p, carried: c, devices: devices, origin: nimbus.OriginCold,
	}
	if err := e.make(ctx, s, spec.Class, spec.Deadline); err != nil {
		return nil, errors.Join(e.unfit.note(p.id, err), s.Destroy(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// make makes the container of a sandbox and its network, and returns once its
// guest is there.
func (e *Executor) make(ctx context.Context, s *sandbox, class nimbus.Class, deadline time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("the container did not start in time"))
	defer cancel()
	networked := e.networked()
	if !networked && class.Network != nimbus.NetworkNone {
		return nimbus.Errorf(nimbus.CodeUnsupported, "this host's containers have no network: the agent is not root").
			WithHint("run the agent as root, or ask for network:%s", nimbus.NetworkNone)
	}
	var both errgroup.Group
	both.Go(func() error { return e.start(ctx, s, class, deadline) })
	if networked {
		both.Go(func() error {
			slot, err := e.slots.Create(ctx, s.machine, netslot.ReachOf(class))
			if err == nil {
				s.slot = slot
			}
			return err
		})
	}
	if err := both.Wait(); err != nil {
		return ofImage(err, class.Image)
	}
	if !networked {
		return nil
	}
	return s.connect(ctx)
}

// start starts the container, and waits until its guest has come to the shim.
func (e *Executor) start(ctx context.Context, s *sandbox, class nimbus.Class, deadline time.Duration) error {
	if err := absolute(&s.dir); err != nil {
		return err
	}
	if err := e.furnish(s, class); err != nil {
		return err
	}
	started, err := shim.Start(ctx, e.cfg.Shim, s.dir, shim.Spec{
		Door: &shim.Door{Socket: doorDir + "/" + doorFile, Serve: socketFile, Token: s.token}, Deadline: deadline,
	})
	if err != nil {
		return fmt.Errorf("start sandbox: %w", err)
	}
	s.Shimmed = executor.Shimmed{Shim: started}
	disks, err := e.layDisks(ctx, s)
	if err == nil {
		err = e.run(ctx, s, e.container(s, class, disks))
	}
	if err := errors.Join(err, e.letGo(s.machine)); err != nil { // they are the container's from now on
		return fmt.Errorf("start container: %w", err)
	}
	return e.awaitGuest(ctx, s)
}

// run has the daemon make a container and start it.
func (e *Executor) run(ctx context.Context, s *sandbox, o client.ContainerCreateOptions) error {
	if err := e.daemon.run(ctx, s.machine, o, func(id string) error { return e.note(s.machine, id) }); err != nil {
		return err
	}
	return e.note(s.machine, finished)
}

// awaitGuest waits until the guest has come to its shim, which does not hear of
// a container that ended before.
func (e *Executor) awaitGuest(ctx context.Context, s *sandbox) (err error) {
	const look = time.Second
	for {
		come, cancel := context.WithTimeout(ctx, look)
		s.pid, err = s.Shim.Come(come)
		late := come.Err() != nil
		cancel()
		if err == nil {
			return nil
		}
		state, stateErr := e.daemon.state(ctx, s.machine)
		if !late || ctx.Err() != nil || stateErr != nil || !state.Running {
			return fmt.Errorf("start container: its guest did not come: %w; its last words: %s",
				errors.Join(err, context.Cause(ctx), stateErr), e.daemon.lastWords(ctx, s.machine))
		}
	}
}

// Adopt finds the container of an earlier process of the agent.
func (e *Executor) Adopt(ctx context.Context, id, dir string) (executor.Sandbox, error) {
	opened, err := shim.Open(dir)
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
	s := &sandbox{Shimmed: executor.Shimmed{Shim: opened}, executor: e, id: id, machine: machine, dir: dir}
	// Without its token it can't be talked to, but still be destroyed.
	token, err := os.ReadFile(filepath.Join(dir, tokenFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("adopt sandbox: read token: %w", err)
	}
	s.token = string(token)
	if s.slot, err = e.slots.Adopt(machine); err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.cfg.Log.WarnContext(ctx, "adopted without network", "sandbox", id, "error", err)
	}
	return s, nil
}

// Sweep removes containers and networks that aren't kept.
func (e *Executor) Sweep(ctx context.Context, keep func() []string) ([]string, error) {
	ids, err := e.present(ctx)
	if err != nil {
		return nil, fmt.Errorf("sweep: %w", err)
	}
	noted, err := claims.Names(e.notesDir())
	if err != nil {
		return nil, fmt.Errorf("sweep: %w", err)
	}
	noted = slices.DeleteFunc(noted, func(id string) bool { return slices.Contains(ids, id) })
	// One that waits may be given to a job at any moment.
	ids, noted = slices.DeleteFunc(ids, e.owned.Has), slices.DeleteFunc(noted, e.owned.Has)
	kept := keep()
	removed, err := e.sweepAll(ctx, ids, kept)
	// Of these there is nothing any more, or what nobody but their name can tell of.
	if _, noteErr := e.sweepAll(ctx, noted, kept); noteErr != nil {
		err = errors.Join(err, noteErr)
	}
	if e.networked() {
		if tidyErr := e.slots.Tidy(ctx); tidyErr != nil {
			err = errors.Join(err, fmt.Errorf("sweep: %w", tidyErr))
		}
	}
	if pruneErr := e.pruneKits(ctx); pruneErr != nil {
		err = errors.Join(err, fmt.Errorf("sweep: %w", pruneErr))
	}
	return removed, err
}

// sweepAll removes those of which no owner is kept, and returns them.
func (e *Executor) sweepAll(ctx context.Context, ids, kept []string) (removed []string, err error) {
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
	return removed, err
}

// present lists the sandboxes of which there is anything on this host: a
// container, a network, a disk, a folder, a claim. All of them have the
// container's name. A daemon that is away, or was never here, hides nothing but
// its own.
func (e *Executor) present(ctx context.Context) ([]string, error) {
	ids, err := e.daemon.list(ctx)
	if err != nil && nimbus.ErrorCode(err) != nimbus.CodeUnavailable {
		return nil, err
	}
	for _, list := range []func() ([]string, error){e.slots.List, e.mounted} {
		more, err := list()
		if err != nil {
			return nil, err
		}
		ids = append(ids, more...)
	}
	for _, dir := range []string{e.waitingDir(), e.claims.Dir} {
		more, err := claims.Names(dir)
		if err != nil {
			return nil, err
		}
		ids = append(ids, more...)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// remove removes everything of a sandbox outside of its folder, and looks that
// it is gone.
func (e *Executor) remove(ctx context.Context, machine string) error {
	if err := e.letGo(machine); err != nil {
		return err
	}
	if err := e.daemon.remove(ctx, machine); err != nil {
		return err
	}
	if err := e.clear(ctx, machine); err != nil {
		return err
	}
	if err := e.slots.Remove(ctx, machine); err != nil {
		return err
	}
	return e.forget(machine)
}

// networked tells whether containers have networks here: only root makes any.
func (*Executor) networked() bool { return os.Geteuid() == 0 }

// familiar calls Docker's registry by the name that its daemon has for it.
func familiar(canonical string) string {
	if rest, ok := strings.CutPrefix(canonical, "index.docker.io/"); ok {
		return "docker.io/" + rest
	}
	return canonical
}
