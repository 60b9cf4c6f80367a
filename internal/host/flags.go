package host

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/agent"
	"github.com/nimbus-ci/nimbus/internal/cache/near"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/image/library"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/programs"
)

// Flags are the command line of an agent: of `nimbus agent`, and of the lean
// nimbus-agent.
type Flags struct {
	JoinTokenFile string   `help:"File with the token that lets this host join; needed once." env:"NIMBUS_JOIN_TOKEN_FILE" type:"path" placeholder:"FILE"`
	Name          string   `help:"How the host is called. Default: the machine's name." env:"NIMBUS_HOST_NAME" placeholder:"NAME"`
	Executors     []string `help:"Executors to use: microvm, firecracker, docker, gpu, local. Default: all but docker and gpu, whose jobs share this machine's kernel." env:"NIMBUS_EXECUTORS" enum:"microvm,firecracker,docker,gpu,local" placeholder:"NAME"`
	CPUs          int      `within:"1.." name:"cpus" help:"How many CPUs jobs may take together. Default: all." env:"NIMBUS_CPUS" placeholder:"N"`
	MemoryMiB     int      `within:"1.." name:"memory" help:"How much memory jobs may take together, in MiB. Default: three quarters." env:"NIMBUS_MEMORY" placeholder:"MIB"`

	CacheGiB   *int     `within:"0.." name:"cache-size" help:"How many GiB of the disk copies of what jobs save and restore may take, for the next ones here; 0 keeps none. Default: a tenth of the disk, and 100 at most." env:"NIMBUS_CACHE_SIZE" placeholder:"GIB"`
	Capability []string `help:"A word that jobs can need of a host, like pytorch, besides what the machine shows by itself; may be repeated." env:"NIMBUS_CAPABILITIES" placeholder:"WORD"`

	LoadFlags
	MicroVMFlags
}

// LoadFlags say how much of the machine jobs get.
type LoadFlags struct {
	OvercommitCPU    float64 `name:"overcommit-cpu" help:"How often each CPU is given out, like 1.5: for jobs that leave theirs idle." default:"1" env:"NIMBUS_OVERCOMMIT_CPU" placeholder:"FACTOR"`
	OvercommitMemory float64 `name:"overcommit-memory" help:"How often each MiB of memory is given out. Beyond 1, jobs that all use theirs have the machine run out of it." default:"1" env:"NIMBUS_OVERCOMMIT_MEMORY" placeholder:"FACTOR"`
	PressureCPU      *int    `within:"0..100" name:"pressure-cpu" help:"Ask for no more jobs while something waited for a CPU in so many percent of the last minute; 0 for never. Default: 90 where CPUs are over-committed, else never." env:"NIMBUS_PRESSURE_CPU" placeholder:"PERCENT"`
	PressureMemory   int     `within:"0..100" name:"pressure-memory" help:"Ask for no more jobs while everything waited for memory in so many percent of the last ten seconds; 0 for never." default:"20" env:"NIMBUS_PRESSURE_MEMORY" placeholder:"PERCENT"`
	PressureIO       int     `within:"0..100" name:"pressure-io" help:"Ask for no more jobs while everything waited for a disk in so many percent of the last minute; 0 for never." default:"80" env:"NIMBUS_PRESSURE_IO" placeholder:"PERCENT"`
	PressureDisk     int     `within:"0..100" name:"pressure-disk" help:"Ask for no more jobs while so many percent of the disk with the data directory are in use; 0 for never." default:"95" env:"NIMBUS_PRESSURE_DISK" placeholder:"PERCENT"`
	ReclaimDisk      int     `within:"0..100" name:"reclaim-disk" help:"Remove images that were converted, or fetched into docker, and that no job uses, the longest unused first, from so many percent of their disk in use on; 0 for never." default:"85" env:"NIMBUS_RECLAIM_DISK" placeholder:"PERCENT"`
}

// overcommittedCPU is the threshold of CPUs that are given out more than once.
// Where they are not, each job has its own, and that they all work is no reason
// to ask for no more.
const overcommittedCPU = 90

// ApplyLoad puts them into a configuration.
func (f LoadFlags) ApplyLoad(cfg *Config) {
	cfg.ReclaimDisk = f.ReclaimDisk
	cfg.OvercommitCPU, cfg.OvercommitMemory = f.OvercommitCPU, f.OvercommitMemory
	cfg.Pressure = agent.Thresholds{Memory: f.PressureMemory, IO: f.PressureIO, Disk: f.PressureDisk}
	switch {
	case f.PressureCPU != nil:
		cfg.Pressure.CPU = *f.PressureCPU
	case f.OvercommitCPU > 1:
		cfg.Pressure.CPU = overcommittedCPU
	}
}

// MonitorFlags say what runs microVMs.
type MonitorFlags struct {
	VMM string `name:"vmm" help:"What runs microVMs: qemu, firecracker, or auto, which is Firecracker where it is installed and really runs guests, and QEMU elsewhere." enum:"auto,qemu,firecracker" default:"auto" env:"NIMBUS_VMM" placeholder:"NAME"`
}

// DaemonFlags say what runs containers.
type DaemonFlags struct {
	DockerHost string `help:"Where the docker daemon of the executors docker and gpu is; one of this machine." env:"NIMBUS_DOCKER_HOST" default:"unix:///var/run/docker.sock" placeholder:"unix:///PATH"`
}

// MicroVMFlags are about the machines and the containers that jobs get.
type MicroVMFlags struct {
	MonitorFlags
	DaemonFlags

	Images      string            `help:"Folder of images that microVMs boot. Default: images in the data directory." env:"NIMBUS_IMAGES" type:"path" placeholder:"DIR"`
	ImageAlias  map[string]string `help:"Let jobs call a container image by a short name: NAME=REFERENCE; may be repeated." env:"NIMBUS_IMAGE_ALIASES" mapsep:"," placeholder:"NAME=REFERENCE"`
	ImageAllow  []string          `help:"Container images that jobs may use, like docker.io/library/*; may be repeated. A registry that is not at a public address must be named here, like registry.corp:5000/*. Default: all of public ones." env:"NIMBUS_IMAGE_ALLOW" placeholder:"PATTERN"`
	ImageDeny   []string          `help:"Container images that jobs may not use, whatever is allowed; may be repeated." env:"NIMBUS_IMAGE_DENY" placeholder:"PATTERN"`
	ImageAhead  []string          `help:"Have an image be here before any job wants it, beside the 10 that jobs lately asked for; may be repeated." env:"NIMBUS_IMAGE_AHEAD" placeholder:"IMAGE"`
	ImageMirror map[string]string `help:"Ask for the images of a registry at a mirror first: docker.io=nimbus.example/acme/docker.io, a registry and what is put before its images' paths; may be repeated." env:"NIMBUS_IMAGE_MIRROR" mapsep:"," placeholder:"REGISTRY=PREFIX"`
	GPUImage    map[string]string `name:"gpu-image" help:"The container image of jobs with GPUs that name none, by the framework that they ask for: pytorch, tensorflow, jax, onnx, vllm, triton, or gpu for those that ask for none; may be repeated." env:"NIMBUS_GPU_IMAGES" mapsep:"," placeholder:"FRAMEWORK=REFERENCE"`
	ImageGiB    int               `within:"0.." name:"image-storage" help:"How many GiB converted container images may take." env:"NIMBUS_IMAGE_STORAGE" default:"50" placeholder:"GIB"`
	Network     []string          `help:"What jobs may reach here: internet, names, none; may be repeated. None is always allowed. Default: all, or names where --reach is given." env:"NIMBUS_NETWORK" enum:"internet,names,none" placeholder:"PROFILE"`
	Reach       []string          `help:"A name that jobs may ask to reach here, and no others: example.com, or *.example.com for all below it; may be repeated. Default: any." env:"NIMBUS_REACH" placeholder:"NAME"`
	Resolver    []string          `help:"Ask this resolver for the names that microVMs look for: HOST:PORT; may be repeated. Default: those of this machine." env:"NIMBUS_RESOLVERS" placeholder:"HOST:PORT"`
	Relay       []string          `help:"Let every microVM reach HOST:PORT, as gateway.nimbus.internal:PORT; may be repeated." sep:"none" placeholder:"HOST:PORT"`

	Warm           int `within:"0.." help:"How many microVMs wait for jobs at most, made of snapshots, of the classes that jobs lately had. 0 keeps none." default:"4" env:"NIMBUS_WARM" placeholder:"N"`
	WarmContainers int `within:"0.." help:"How many containers wait for jobs at most, where the executor docker is used. 0 keeps none." default:"2" env:"NIMBUS_WARM_CONTAINERS" placeholder:"N"`
	WarmMemory     int `within:"0.." help:"How much memory microVMs that wait may take together, in MiB; and as much again containers." default:"512" env:"NIMBUS_WARM_MEMORY" placeholder:"MIB"`
}

// Apply puts them into a configuration.
func (f MicroVMFlags) Apply(cfg *Config) error {
	if f.ImageGiB < 0 {
		return nimbus.Errorf(nimbus.CodeInvalid, "--image-storage can't be below 0")
	}
	mirrors, err := library.NewMirrors(f.ImageMirror)
	if err != nil {
		return fmt.Errorf("--image-mirror: %w", err)
	}
	cfg.Containers = library.Config{
		Aliases: f.ImageAlias, Policy: library.Policy{Allow: f.ImageAllow, Deny: f.ImageDeny}, Mirrors: mirrors, Bytes: int64(f.ImageGiB) << 30, Ahead: f.ImageAhead,
	}
	if f.Warm < 0 || f.WarmMemory < 0 || f.WarmContainers < 0 {
		return nimbus.Errorf(nimbus.CodeInvalid, "less than no machines can't wait").WithHint("--warm 0 keeps none ready")
	}
	if err := f.applyReach(cfg); err != nil {
		return err
	}
	cfg.Images, cfg.Resolvers, cfg.Warm, cfg.WarmMemoryMiB, cfg.VMM = f.Images, f.Resolver, f.Warm, f.WarmMemory, f.VMM
	cfg.DockerHost, cfg.WarmContainers, cfg.GPUImages = f.DockerHost, f.WarmContainers, f.GPUImage
	for _, target := range f.Relay {
		_, digits, err := net.SplitHostPort(target)
		port, numberErr := strconv.ParseUint(digits, 10, 16)
		if err := errors.Join(err, numberErr); err != nil || port == 0 {
			return nimbus.Errorf(nimbus.CodeInvalid, "%q is nothing to relay to", target).WithHint("--relay takes HOST:PORT, like 127.0.0.1:5000")
		}
		if port == near.Port {
			return nimbus.Errorf(nimbus.CodeInvalid, "port %d of the gateway is where jobs find the cache", port).WithHint("have what --relay %s leads to listen at another port", target)
		}
		cfg.Relays = append(cfg.Relays, netslot.Relay{Port: uint16(port), Target: target})
	}
	return nil
}

// applyReach says what jobs may reach at most.
func (f MicroVMFlags) applyReach(cfg *Config) error {
	var err error
	if cfg.Reach, err = nimbus.NamesOf(f.Reach...); err != nil {
		return fmt.Errorf("--reach: %w", err)
	}
	for _, address := range f.Resolver {
		if _, err := netip.ParseAddrPort(address); err != nil {
			return nimbus.Errorf(nimbus.CodeInvalid, "--resolver: %q is no address and port", address).WithHint("write it like 10.0.0.2:53")
		}
	}
	for _, p := range f.Network {
		cfg.Network = append(cfg.Network, nimbus.NetworkProfile(p))
	}
	if cfg.Reach != "" && slices.Contains(cfg.Network, nimbus.NetworkInternet) {
		return nimbus.Errorf(nimbus.CodeInvalid, "--network internet lets jobs reach more than --reach says").
			WithHint("leave one of them out")
	}
	return nil
}

// Agent makes the agent that the flags ask for.
func (f Flags) Agent(ctx context.Context, server string, encryption *tls.Config, data, version string, p programs.Finder, log *slog.Logger) (*agent.Agent, error) {
	var token []byte
	if f.JoinTokenFile != "" {
		var err error
		if token, err = os.ReadFile(f.JoinTokenFile); err != nil {
			return nil, fmt.Errorf("read join token: %w", err)
		}
	}
	cfg := Config{
		Server: server, TLS: encryption, Data: data, Name: f.Name, Version: version, JoinToken: string(bytes.TrimSpace(token)),
		CPUs: f.CPUs, MemoryMiB: f.MemoryMiB, Executors: f.Executors, Capabilities: f.Capability, Programs: p, Log: log,
	}
	f.ApplyLoad(&cfg)
	if err := f.applyCache(&cfg); err != nil {
		return nil, err
	}
	if err := f.Apply(&cfg); err != nil {
		return nil, err
	}
	return New(ctx, cfg)
}

const (
	// cacheShare is the part of a disk that copies of the cache may take by default,
	// mostCache how much that is at most.
	cacheShare = 10
	mostCache  = 100 << 30
)

// applyCache says how much of the cache is kept on the host.
func (f Flags) applyCache(cfg *Config) error {
	if f.CacheGiB != nil {
		if *f.CacheGiB < 0 {
			return nimbus.Errorf(nimbus.CodeInvalid, "--cache-size can't be below 0")
		}
		cfg.CacheBytes = int64(*f.CacheGiB) << 30
		return nil
	}
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	disk, err := executor.DiskOf(cfg.Data)
	if err != nil {
		return fmt.Errorf("find out how much of the cache to keep: %w", err)
	}
	cfg.CacheBytes = min(disk.Total/cacheShare, mostCache)
	return nil
}
