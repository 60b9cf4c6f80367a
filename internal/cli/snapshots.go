package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/snapshot"
	"github.com/nimbus-ci/nimbus/internal/host"
)

type snapshotsCmd struct {
	List   snapshotsListCmd   `cmd:"" default:"withargs" help:"List the snapshots on this machine."`
	Create snapshotsCreateCmd `cmd:"" help:"Boot an image until its guest is ready, and save that."`
	Verify snapshotsVerifyCmd `cmd:"" help:"Tell whether snapshots are still what was saved, and fit this machine."`
}

// snapshotsFlags tell where images and snapshots are.
type snapshotsFlags struct {
	imagesFlags
	host.MonitorFlags

	AgentData string `help:"The agent's own directory. Default: agent in the data directory." env:"NIMBUS_AGENT_DATA" type:"path" placeholder:"DIR"`
}

// folder is where the agent keeps snapshots.
func (f snapshotsFlags) folder(a *app) (string, error) {
	if f.AgentData != "" {
		return filepath.Join(f.AgentData, "microvm", "snapshots"), nil
	}
	data, err := a.root.dataDir()
	return filepath.Join(data, "agent", "microvm", "snapshots"), err
}

func (f snapshotsFlags) store(a *app) (snapshot.Store, error) {
	dir, err := f.folder(a)
	return snapshot.Store{Dir: dir}, err
}

// executor makes machines beside those of the agent, which would sweep up what
// it does not know under its own name. One command at a time does that; the
// returned function lets the next.
func (f snapshotsFlags) executor(a *app) (*microvm.Executor, func(), error) {
	data, err := a.root.dataDir()
	if err != nil {
		return nil, nil, err
	}
	folder, err := f.folder(a)
	if err != nil {
		return nil, nil, err
	}
	images, err := f.imagesFlags.store(a)
	if err != nil {
		return nil, nil, err
	}
	own := filepath.Join(filepath.Dir(folder), "create")
	if err := os.MkdirAll(own, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(own, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("lock snapshots: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, nil, nimbus.Errorf(nimbus.CodeConflict, "another command makes snapshots in %s", folder).WithHint("wait until it is done")
	}
	e, err := host.MicroVMs(host.Config{Data: own, VMM: f.VMM, Images: images.Dir, Snapshots: folder, Programs: finder(data), Log: a.logger()})
	if err != nil {
		lock.Close()
		return nil, nil, err
	}
	return e, func() { lock.Close() }, nil
}

// snapshotView is a snapshot as --json shows it.
type snapshotView struct {
	Name      string    `json:"name"`
	Image     string    `json:"image"`
	CPUs      int       `json:"cpus"`
	MemoryMiB int       `json:"memory_mib"`
	Monitor   string    `json:"monitor"`
	CreatedAt time.Time `json:"created_at"`
	Bytes     int64     `json:"bytes"` // that it takes on the disk
	// Refused is why it may not be used, "" for no reason that was looked for.
	Refused string `json:"refused,omitempty"`

	broken bool // it can't be read as one: nothing else is known of it
}

func viewSnapshot(s snapshot.Snapshot) snapshotView {
	v := snapshotView{Name: s.Name(), Image: s.Image, CPUs: s.CPUs, MemoryMiB: s.MemoryMiB, Monitor: s.Monitor, CreatedAt: s.CreatedAt, Bytes: s.DiskUse()}
	if err := s.Untouched(); err != nil {
		v.Refused = err.Error()
	}
	return v
}

type snapshotsListCmd struct {
	snapshotsFlags
}

func (*snapshotsListCmd) Help() string {
	return usage("nimbus snapshots", "nimbus snapshots --json")
}

func (c *snapshotsListCmd) Run(a *app) error {
	store, err := c.store(a)
	if err != nil {
		return err
	}
	found, broken, err := store.List()
	if err != nil {
		return err
	}
	v := struct {
		Snapshots []snapshotView `json:"snapshots"`
	}{Snapshots: []snapshotView{}}
	for _, s := range found {
		v.Snapshots = append(v.Snapshots, viewSnapshot(s))
	}
	for _, b := range broken {
		v.Snapshots = append(v.Snapshots, snapshotView{Name: b.Folder, Refused: b.Why.Error(), broken: true})
	}
	if a.root.JSON {
		return a.printJSON(v)
	}
	if len(v.Snapshots) == 0 {
		a.info("no snapshots in %s: nimbus snapshots create", store.Dir)
		return nil
	}
	var rows []string
	for _, s := range v.Snapshots {
		if s.broken {
			rows = append(rows, s.Name+"\t\t\t\t\tbroken\t")
			continue
		}
		rows = append(rows, fmt.Sprintf("%s\t%d\t%d MiB\t%d MiB\t%s\t%s\t%s", s.Image, s.CPUs, s.MemoryMiB, s.Bytes>>20, since(s.CreatedAt), usable(s), s.Monitor))
	}
	return a.table("IMAGE\tCPUS\tMEMORY\tON DISK\tMADE\tSTATE\tMONITOR", rows)
}

// usable is whether a snapshot may be used, as far as a look at its files tells.
func usable(s snapshotView) string {
	if s.Refused != "" {
		return "touched"
	}
	return "whole"
}
