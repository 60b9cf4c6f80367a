// Package host puts the host agent together: its executors, the programs that
// they start, the way to the control plane. It is to a machine that runs jobs
// what package server is to the control plane.
package host

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/images/runner"
	"github.com/nimbus-ci/nimbus/internal/agent"
	"github.com/nimbus-ci/nimbus/internal/cache/intercept"
	"github.com/nimbus-ci/nimbus/internal/cache/near"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/gpu"
	"github.com/nimbus-ci/nimbus/internal/executor/local"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/choice"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/firecracker"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm/qemu"
	"github.com/nimbus-ci/nimbus/internal/programs"
)

// Config says how this machine runs jobs. Zero fields mean their defaults.
type Config struct {
	Server    string
	TLS       *tls.Config // whom to trust, and how to be known; nil: the system's trust
	Data      string      // the agent's own directory
	Name      string
	Version   string
	JoinToken string
	CPUs      int
	MemoryMiB int
	// OvercommitCPU and OvercommitMemory are how often each CPU and MiB is given
	// out; 0 means once. Pressure is from where on the host asks for no more jobs.
	OvercommitCPU, OvercommitMemory float64
	Pressure                        agent.Thresholds
	ReclaimDisk                     int // see agent.Config
	// Capabilities are words that jobs can need, which the machine does not show
	// by itself.
	Capabilities []string
	// Executors to use, by name; none means all but docker and gpu, whose jobs share
	// the machine's kernel. What the machine can't use is told to the control plane
	// with the reason.
	Executors []string
	// VMM is the monitor of microVMs: choice.Auto, qemu.Name or
	// firecracker.Name. Default: choice.Auto.
	VMM string
	// DockerHost is where the daemon of containers is. Default:
	// docker.DefaultHost.
	DockerHost string
	// Images is the folder of images that microVMs boot. Default: "images"
	// beside Data.
	Images string
	// Containers says which container images jobs may use, and how much of them
	// is kept. Images, Builder and Log in it are set from the others here.
	Containers library.Config
	// Network are the profiles that jobs may have here; none means all, or
	// those below "internet" where Reach is set.
	Network []nimbus.NetworkProfile
	// Reach are the names that jobs may ask to reach here at most; none means
	// any.
	Reach nimbus.Names
	// Relays are addresses that every microVM can reach.
	Relays []netslot.Relay
	// Resolvers are asked for the names that microVMs look for; none means those
	// of this machine.
	Resolvers []string
	// Snapshots is the folder of saved microVMs. Default: in Data.
	Snapshots string
	// Warm is how many microVMs wait for jobs at most, and WarmMemoryMiB what
	// they may take together. None waits where Warm is 0.
	Warm          int
	WarmMemoryMiB int
	// WarmContainers is how many containers wait for jobs at most.
	WarmContainers int
	// GPUImages are the container images of jobs with GPUs that name none, by the
	// framework that they need; see gpu.Frameworks.
	GPUImages map[string]string
	// CDIDirs is where devices are described, for daemons that don't read that
	// themselves. Default: /etc/cdi and /var/run/cdi.
	CDIDirs []string
	// GitHub is how what is GitHub's is reached, of what its jobs ask at the door to
	// the cache. Default: by this machine's resolver, with the system's trust.
	GitHub intercept.Forward
	// StandIn says that GitHub's jobs come from a double of GitHub: containers take
	// them without GitHub's own runner.
	StandIn bool
	// Programs finds nimbus-shim and nimbus-guest.
	Programs programs.Finder
	// CacheBytes is how much of the disk copies of what jobs save and restore may
	// take. None are kept where it is 0.
	CacheBytes int64
	Log        *slog.Logger

	machineRelays []netslot.Relay // of microVMs, besides Relays
}

// New makes the agent of this machine. Codes: not_found for a program that is
// missing.
func New(_ context.Context, cfg Config) (*agent.Agent, error) {
	door, err := near.Open(cfg.cache())
	if err != nil {
		return nil, err
	}
	cfg.Relays = append(slices.Clone(cfg.Relays), netslot.Relay{Port: near.Port, Serve: door.Serve})
	github, err := cfg.cacheDoor(door)
	if err != nil {
		return nil, errors.Join(err, door.Close())
	}
	beside := map[string]func(context.Context) error{"cache": door.Run}
	var cacheDoor agent.CacheDoor
	if github != nil {
		cfg.machineRelays = []netslot.Relay{{Port: intercept.Port, Serve: github.Serve}}
		beside["GitHub's cache"], cacheDoor = github.Run, githubDoor{github}
	}
	executors, err := Executors(cfg)
	if err != nil {
		return nil, errors.Join(err, door.Close())
	}
	images := image.Store{Dir: cfg.images()}
	machines := agent.Runner{
		Command: []string{runner.Program}, Diagnostics: []string{runner.OfficialDir + "/" + runner.Diagnostics, runner.Diagnostics},
		Version: func() string { return images.RunnerVersion(nimbus.DefaultImage) },
	}
	runners := map[string]agent.Runner{nimbus.ExecutorMicroVM: machines, nimbus.ExecutorFirecracker: machines}
	if path, err := cfg.Programs.Find(programs.Runner); err == nil {
		runners[nimbus.ExecutorLocal] = agent.Runner{Command: []string{path}, Diagnostics: []string{runner.Diagnostics}}
		runners[nimbus.ExecutorDocker] = agent.Runner{
			Command: []string{docker.Runner}, Diagnostics: machines.Diagnostics, Env: map[string]string{runner.InContainer: "1"},
			Version: machines.Version,
		}
		runners[nimbus.ExecutorGPU] = runners[nimbus.ExecutorDocker]
	}
	return agent.New(agent.Config{
		Server: cfg.Server, TLS: cfg.TLS, Data: cfg.Data, Name: cfg.Name, Version: cfg.Version, JoinToken: cfg.JoinToken,
		Executors: executors, Runners: runners, CPUs: cfg.CPUs, MemoryMiB: cfg.MemoryMiB,
		OvercommitCPU: cfg.OvercommitCPU, OvercommitMemory: cfg.OvercommitMemory, Pressure: cfg.Pressure, ReclaimDisk: cfg.ReclaimDisk,
		Capabilities: cfg.Capabilities, Network: cfg.Network, Reach: cfg.Reach, Log: cfg.Log,
		CacheURL: cacheURL(door), CacheDoor: cacheDoor, Copies: door, Beside: beside,
	})
}

// cache is the host's door to the cache. It gives way as images do.
func (c Config) cache() near.Config {
	n := near.Config{
		Server: c.Server, TLS: c.TLS, Dir: filepath.Join(c.Data, "cache"), Bytes: c.CacheBytes, PortFile: filepath.Join(c.Data, "cache-port"), Log: c.Log,
	}
	if c.ReclaimDisk > 0 {
		n.Over = func() int64 {
			disk, err := executor.DiskOf(c.Data)
			if err != nil {
				return 0 // the agent tells of it where it asks for jobs
			}
			return disk.Over(c.ReclaimDisk)
		}
	}
	return n
}

// cacheURL is where the jobs of an executor find the host's door to the cache.
func cacheURL(door *near.Door) func(executor string) string {
	return func(executor string) string {
		if executor == nimbus.ExecutorLocal {
			return "http://" + door.Addr() + "/"
		}
		return "http://" + net.JoinHostPort(docker.GatewayName, strconv.Itoa(near.Port)) + "/"
	}
}

// Executors makes the executors of this machine that the configuration names.
func Executors(cfg Config) ([]executor.Executor, error) {
	machines, err := MicroVMs(cfg)
	if err != nil {
		return nil, err
	}
	p, err := cfg.parts()
	if err != nil {
		return nil, err
	}
	ofContainers, err := cfg.containers(p)
	if err != nil {
		return nil, err
	}
	containers, err := docker.New(ofContainers)
	if err != nil {
		return nil, err
	}
	accelerated, err := cfg.gpus(ofContainers)
	if err != nil {
		return nil, err
	}
	return cfg.chosen([]executor.Executor{
		machines,
		microvm.FirecrackerOnly{Executor: machines, Alone: !cfg.offers(nimbus.ExecutorMicroVM)},
		containers,
		accelerated,
		local.New(local.Config{Shim: p.shim, Guest: p.guest, Owner: p.owner}),
	}), nil
}

// MicroVMs makes the executor of microVMs, whatever the configuration names.
func MicroVMs(cfg Config) (*microvm.Executor, error) {
	p, err := cfg.parts()
	if err != nil {
		return nil, err
	}
	cfg.Containers.Images, cfg.Containers.Log = image.Store{Dir: cfg.images()}, cfg.Log
	if cfg.Containers.Builder, err = cfg.builder(); err != nil {
		return nil, err
	}
	dir := filepath.Join(cfg.Data, "microvm")
	cfg.Containers.Asked = filepath.Join(cfg.Data, "asked-microvm.json")
	driver, err := choice.New(cmp.Or(cfg.VMM, choice.Auto), qemu.New(), firecracker.New(firecracker.Config{
		Dir: filepath.Join(dir, "firecracker"), Shim: p.shim, FirstUID: firstUID(p.owner), UIDs: uidsPerAgent,
	}))
	if err != nil {
		return nil, err
	}
	return microvm.New(microvm.Config{
		Shim: p.shim, Guest: p.guest, Owner: p.owner, Dir: dir,
		Images: library.New(cfg.Containers), Driver: driver, Relays: slices.Concat(cfg.Relays, cfg.machineRelays), Resolvers: cfg.Resolvers, Snapshots: cfg.Snapshots,
		Warm: microvm.WarmConfig{Machines: cfg.Warm, MemoryMiB: cfg.WarmMemoryMiB}, Log: cfg.Log,
	}), nil
}

// containers is how containers are made.
func (c Config) containers(p parts) (docker.Config, error) {
	program, err := c.Programs.Find(programs.Runner)
	if err != nil && nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		return docker.Config{}, err
	}
	return docker.Config{
		Shim: p.shim, Guest: p.guest, Runner: program, StandIn: c.StandIn, Host: c.DockerHost, Owner: p.owner, Dir: filepath.Join(c.Data, "docker"),
		Built:   image.Store{Dir: c.images()},
		Catalog: library.Catalog{Aliases: c.Containers.Aliases, Policy: c.Containers.Policy, Mirrors: c.Containers.Mirrors}, Ahead: c.Containers.Ahead,
		Relays: c.Relays, Resolvers: c.Resolvers,
		Warm: docker.WarmConfig{Containers: c.WarmContainers, MemoryMiB: c.WarmMemoryMiB}, Log: c.Log,
	}, nil
}

// gpus makes the executor of containers with GPUs. What is its own has another
// owner than that of other containers, which would sweep it.
func (c Config) gpus(containers docker.Config) (*gpu.Executor, error) {
	containers.Owner += "g"
	containers.Dir = filepath.Join(c.Data, "gpu")
	return gpu.New(gpu.Config{
		Containers: containers, NVML: func() (string, error) { return c.Programs.Find(programs.NVML) },
		Images: c.GPUImages, CDIDirs: c.CDIDirs,
	})
}

// images is the folder of images.
func (c Config) images() string {
	if c.Images == "" {
		return filepath.Join(filepath.Dir(filepath.Clean(c.Data)), "images")
	}
	return c.Images
}

// builder is who this host is in the attestations of images that it converts.
func (c Config) builder() (string, error) {
	name := c.Name
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return "", fmt.Errorf("find the host's name: %w", err)
		}
	}
	return "nimbus-host:" + name + ":" + c.Version, nil
}

// parts are what every executor needs.
type parts struct{ shim, guest, owner string }

func (c Config) parts() (p parts, err error) {
	if p.shim, err = c.Programs.Find(programs.Shim); err != nil {
		return p, err
	}
	if p.guest, err = c.Programs.Find(programs.Guest); err != nil {
		return p, err
	}
	p.owner, err = owner(c.Data)
	return p, err
}

// chosen are the executors that the configuration names.
func (c Config) chosen(all []executor.Executor) []executor.Executor {
	return slices.DeleteFunc(all, func(e executor.Executor) bool { return !c.offers(e.Name()) })
}

// offers tells whether the configuration has an executor used.
func (c Config) offers(name string) bool {
	if len(c.Executors) == 0 {
		return name != nimbus.ExecutorDocker && name != nimbus.ExecutorGPU
	}
	return slices.Contains(c.Executors, name)
}

// Users of jails: below 2³¹, above all that systemd gives to containers
// (https://systemd.io/UIDS-GIDS), and other ones for each agent of a machine.
const (
	uidsPerAgent = 4096
	firstOfAll   = 1_900_000_000
	agents       = 60_000
)

// firstUID is the first user id of an agent's own.
func firstUID(owner string) int {
	sum := sha256.Sum256([]byte(owner))
	return firstOfAll + int(binary.BigEndian.Uint32(sum[:])%agents)*uidsPerAgent
}

// owner is a short name of this agent's own, told by its directory: what two
// agents on one machine make is told apart by it.
func owner(data string) (string, error) {
	path, err := filepath.Abs(data)
	if err != nil {
		return "", fmt.Errorf("find the data directory: %w", err)
	}
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
	} else if !os.IsNotExist(err) {
		return "", fmt.Errorf("find the data directory: %w", err)
	}
	sum := sha256.Sum256([]byte(path))
	return "nb" + hex.EncodeToString(sum[:3]), nil
}
