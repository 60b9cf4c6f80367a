package microvm

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/snapshot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/executor/scratch"
)

// snapshotter is the driver, where it can save machines. Codes: unsupported.
func (e *Executor) snapshotter() (vmm.Snapshotter, error) {
	d, ok := e.cfg.Driver.(vmm.Snapshotter)
	if !ok {
		return nil, nimbus.Errorf(nimbus.CodeUnsupported, "this machine's monitor saves no machines").WithHint("jobs boot their machines instead")
	}
	return d, nil
}

// Snapshots is where machines are kept that were saved.
func (e *Executor) Snapshots() snapshot.Store { return snapshot.Store{Dir: e.cfg.Snapshots} }

// Inputs are what a snapshot for a class depends on here and now.
func (e *Executor) Inputs(ctx context.Context, class nimbus.Class) (snapshot.Inputs, error) {
	r, err := e.recipe(ctx, class)
	if err != nil {
		return snapshot.Inputs{}, err
	}
	return e.inputs(r)
}

func (e *Executor) inputs(r recipe) (snapshot.Inputs, error) {
	in := snapshot.Inputs{
		Image: r.class.Image, Driver: r.caps.Monitor, Monitor: r.caps.Version, Parameters: r.parameters() + settle,
		CPUs: r.class.CPUs, MemoryMiB: r.class.MemoryMiB, DiskMiB: e.cfg.DiskMiB,
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return in, fmt.Errorf("ask for the kernel's release: %w", err)
	}
	in.Host = unix.ByteSliceToString(host.Release[:])
	cpu, err := e.processor()
	if err != nil {
		return in, err
	}
	in.CPU, in.CPUFlags = cpu.model, cpu.flags
	for path, digest := range map[string]*string{r.img.Kernel(): &in.Kernel, r.img.Root(): &in.Root, r.initrd: &in.Initrd} {
		if *digest, err = e.digests.of(path); err != nil {
			return in, err
		}
	}
	if tools := r.img.Tools(); tools != "" {
		digest, err := e.digests.of(tools)
		if err != nil {
			return in, err
		}
		in.Root += "+" + digest
	}
	return in, nil
}

// processor is the model of the first processor, and a digest of what it can do.
type processor struct{ model, flags string }

// readProcessor asks the kernel, which on some machines measures the speed of
// each processor first: it is not for the way of a job.
func readProcessor() (processor, error) {
	var p processor
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return p, fmt.Errorf("read processor: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() && (p.model == "" || p.flags == "") {
		key, value, _ := strings.Cut(lines.Text(), ":")
		switch value = strings.TrimSpace(value); strings.TrimSpace(key) {
		case "model name":
			p.model = value
		case "flags":
			sum := sha256.Sum256([]byte(value))
			p.flags = hex.EncodeToString(sum[:])
		}
	}
	if err := lines.Err(); err != nil {
		return p, fmt.Errorf("read processor: %w", err)
	}
	return p, nil
}

// digests remembers the digests of files for as long as these are the same.
type digests struct {
	mu    sync.Mutex
	known map[fileIdentity]string
}

type fileIdentity struct {
	device, inode uint64
	bytes         int64
	changed       unix.Timespec
}

// maxDigests bounds what is remembered; a host has few images.
const maxDigests = 256

func (d *digests) of(path string) (string, error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return "", fmt.Errorf("digest %s: %w", filepath.Base(path), err)
	}
	id := fileIdentity{s.Dev, s.Ino, s.Size, s.Ctim}
	d.mu.Lock()
	defer d.mu.Unlock()
	if digest, ok := d.known[id]; ok {
		return digest, nil
	}
	place, err := filepath.EvalSymlinks(path) // programs may be links
	if err != nil {
		return "", fmt.Errorf("digest %s: %w", filepath.Base(path), err)
	}
	digest, err := snapshot.Digest(context.Background(), place) // others wait for it, too
	if err != nil {
		return "", err
	}
	if d.known == nil || len(d.known) >= maxDigests {
		d.known = map[fileIdentity]string{}
	}
	d.known[id] = digest
	return digest, nil
}

// EnsureSnapshot returns the snapshot for a class, making it when there is none
// or what there is does not fit any more.
func (e *Executor) EnsureSnapshot(ctx context.Context, class nimbus.Class) (snapshot.Snapshot, error) {
	driver, err := e.snapshotter()
	if err != nil {
		return snapshot.Snapshot{}, err
	}
	r, err := e.recipe(ctx, class)
	if err != nil {
		return snapshot.Snapshot{}, err
	}
	in, err := e.inputs(r)
	if err != nil {
		return snapshot.Snapshot{}, err
	}
	e.saving.Lock() // one at a time: each boots a machine
	defer e.saving.Unlock()
	found, err := e.Snapshots().Open(in)
	if err == nil {
		return found, nil
	}
	if nimbus.ErrorCode(err) == nimbus.CodeConflict {
		e.cfg.Log.InfoContext(ctx, "make a snapshot again", "reason", err)
	}
	return e.save(ctx, driver, r, in)
}

// save boots a machine until its guest is ready, and saves it.
func (e *Executor) save(ctx context.Context, driver vmm.Snapshotter, r recipe, in snapshot.Inputs) (_ snapshot.Snapshot, err error) {
	s, err := e.newMachine(ctx, r, netslot.Reach{Profile: nimbus.NetworkNone})
	if err != nil {
		return snapshot.Snapshot{}, err
	}
	defer func() { err = errors.Join(err, e.discard(context.WithoutCancel(ctx), s)) }()
	m := r.machine(s)
	m.Savable = true
	m.Parameters = in.Parameters
	if err := e.boot(ctx, s, m, r, e.bootTimeout(r.caps)+saveTimeout); err != nil {
		return snapshot.Snapshot{}, fmt.Errorf("make snapshot: %w", err)
	}
	if err := s.rehearse(ctx, false); err != nil {
		return snapshot.Snapshot{}, fmt.Errorf("make snapshot: %w; its last words: %s", err, s.lastWords())
	}
	if err := driver.Pause(ctx, s.dir); err != nil {
		return snapshot.Snapshot{}, fmt.Errorf("make snapshot: %w", err)
	}
	draft, err := e.Snapshots().Draft()
	if err != nil {
		return snapshot.Snapshot{}, err
	}
	defer os.RemoveAll(draft) // it is empty once it is published
	saved, err := driver.Snapshot(ctx, s.dir, draft)
	if err != nil {
		return snapshot.Snapshot{}, fmt.Errorf("make snapshot: %w; its last words: %s", err, s.lastWords())
	}
	if err := s.End(ctx); err != nil { // nothing writes to the files any more
		return snapshot.Snapshot{}, fmt.Errorf("make snapshot: %w", err)
	}
	if keeper, ok := e.cfg.Driver.(vmm.Keeper); ok { // what it still has of the disk would show as a change later
		if err := keeper.Clear(s.dir); err != nil {
			return snapshot.Snapshot{}, fmt.Errorf("make snapshot: %w", err)
		}
	}
	for from, to := range map[string]string{
		saved.State: snapshot.StateFile, saved.Memory: snapshot.MemoryFile, filepath.Join(s.dir, diskFile): snapshot.DiskFile,
	} {
		if err := os.Rename(from, filepath.Join(draft, to)); err != nil {
			return snapshot.Snapshot{}, fmt.Errorf("make snapshot: %w", err)
		}
	}
	// The monitor's user may have owned it.
	if err := os.Chown(filepath.Join(draft, snapshot.DiskFile), os.Geteuid(), os.Getegid()); err != nil {
		return snapshot.Snapshot{}, fmt.Errorf("make snapshot: %w", err)
	}
	return e.Snapshots().Publish(ctx, draft, in, time.Now())
}

// saveTimeout is for how long a machine lives that is to be saved, once it has
// booted.
const saveTimeout = time.Minute

// layDisk makes the disk of a machine that is made of a snapshot.
func layDisk(s *sandbox, from snapshot.Snapshot) error {
	if err := scratch.Copy(filepath.Join(s.dir, diskFile), from.Path(snapshot.DiskFile)); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	return nil
}

// restore makes a machine of a snapshot, whose disk is laid, and leaves it
// paused.
func (e *Executor) restore(ctx context.Context, s *sandbox, r recipe, from snapshot.Snapshot, deadline time.Duration) error {
	driver, err := e.snapshotter()
	if err != nil {
		return err
	}
	m := r.machine(s)
	m.Parameters = from.Parameters
	m.From = &vmm.Snapshot{
		Monitor: from.Monitor, State: from.Path(snapshot.StateFile), Memory: from.Path(snapshot.MemoryFile),
		WorkingSet: from.Path(snapshot.WorkingSetFile),
	}
	if err := e.start(ctx, s, m, r.caps, deadline); err != nil {
		return err
	}
	s.laps.lap("monitor")
	restoring, done := s.untilEnd(ctx)
	defer done()
	if err := driver.Restore(restoring, m); err != nil {
		if ctx.Err() == nil {
			err = errors.Join(err, e.distrust(ctx, from))
		}
		return errors.Join(err, s.End(context.WithoutCancel(ctx)))
	}
	s.laps.lap("restore")
	return nil
}

// distrust removes a snapshot that the monitor could make no machine of, though
// nothing that it was made of has changed: the next one is made anew.
func (e *Executor) distrust(ctx context.Context, from snapshot.Snapshot) error {
	e.cfg.Log.WarnContext(ctx, "a snapshot is of no use, and removed", "snapshot", from.Name())
	return e.Snapshots().Remove(from.Name())
}

// wakeTimeout bounds the way from paused to an answer of the guest. It has
// booted long ago: what takes longer hangs.
const wakeTimeout = 20 * time.Second

// wake lets a paused machine run and waits for its guest.
func (e *Executor) wake(ctx context.Context, s *sandbox) error {
	driver, err := e.snapshotter()
	if err != nil {
		return err
	}
	ctx, done := s.untilEnd(ctx)
	defer done()
	if err := driver.Resume(ctx, s.dir); err != nil {
		return fmt.Errorf("resume machine: %w", err)
	}
	s.laps.lap("resume")
	if err := s.awaitGuest(ctx, wakeTimeout); err != nil {
		return err
	}
	s.laps.lap("guest")
	return nil
}

// attune takes a machine that was just restored to where only its job is
// missing: it has gone through a rehearsal, its guest is connected, and it is
// paused again.
func (e *Executor) attune(ctx context.Context, s *sandbox) error {
	driver, err := e.snapshotter()
	if err != nil {
		return err
	}
	if err := e.wake(ctx, s); err != nil {
		return err
	}
	ctx, done := s.untilEnd(ctx)
	defer done()
	if err := s.rehearse(ctx, true); err != nil {
		return err
	}
	if err := s.awaitGuest(ctx, wakeTimeout); err != nil {
		return err
	}
	if err := driver.Pause(ctx, s.dir); err != nil {
		return fmt.Errorf("pause machine: %w", err)
	}
	return nil
}
