package docker

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
)

// Files in a sandbox' folder.
const (
	socketFile = "guest.sock" // where the guest serves; in no container
	tokenFile  = "token"
	doorDir    = "door" // the one folder that the container has, read-only
	doorFile   = "in"
	hostsFile  = "hosts"
	namesFile  = "resolv.conf"
)

// Places in a container.
const (
	workDir = "/workspace"
	homeDir = "/root"
	ownDir  = "/.nimbus" // of what comes from the host, read-only
	guest   = ownDir + "/guest"
	// Runner takes GitHub's jobs, by GitHub's own runner, which is beside it.
	Runner = ownDir + "/runner"
)

const (
	// overheadMiB is what the guest may take beside the job.
	overheadMiB = 32
	// leastProcesses and processesPerMiB are how many processes and threads a job
	// may have: as many as in a microVM of its size.
	leastProcesses  = 512
	processesPerMiB = 2
	// smallMiB is the size of folders that are written to a little: they are
	// memory of the job's.
	smallMiB = 64
	// maxVolumes is how many folders an image may ask to be writable.
	maxVolumes = 16
	hosts      = "127.0.0.1 localhost\n"
)

// capabilities are those that a job's root keeps, of which package managers and
// builds that need no sudo make use: to own files and give them away, to become
// another user, to end that user's processes. There is none for networks,
// devices, mounts, other processes' memory, or the kernel.
func capabilities() []string {
	return []string{"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"}
}

// furnish lays the files that a container has of its sandbox' folder.
func (e *Executor) furnish(s *sandbox, class nimbus.Class) error {
	s.token = rand.Text()
	if err := os.Mkdir(filepath.Join(s.dir, doorDir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make sandbox folder: %w", err)
	}
	var servers, known string
	if e.networked() {
		known = netslot.Gateway.String() + " " + GatewayName + "\n"
	}
	if class.Network != nimbus.NetworkNone {
		servers = "nameserver " + netslot.Gateway.String() + "\n"
	}
	for name, content := range map[string]string{hostsFile: hosts + known, namesFile: servers} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("make sandbox folder: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, tokenFile), []byte(s.token), 0o600); err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	return nil
}

// container is what the daemon is told of a sandbox.
func (e *Executor) container(s *sandbox, class nimbus.Class, disks []string) client.ContainerCreateOptions {
	no := false
	processes := int64(max(leastProcesses, class.MemoryMiB*processesPerMiB))
	memory := int64(class.MemoryMiB+overheadMiB) << 20
	env := []string{
		"NIMBUS_GUEST_DOOR=" + ownDir + "/" + doorDir + "/" + doorFile, "NIMBUS_GUEST_WORKDIR=" + workDir,
		// What the image sets is the job's, not the guest's.
		"NIMBUS_GUEST_SOCKET=", "GODEBUG=", "HOME=" + homeDir,
	}
	if len(disks) > 0 {
		env = append(env, "NIMBUS_GUEST_DISKS="+strings.Join(s.folders(), ":"))
	}
	o := client.ContainerCreateOptions{
		Config: &container.Config{
			Image: s.picture.id, Entrypoint: []string{guest}, User: "0:0", WorkingDir: "/", Env: env, Hostname: "nimbus",
			Labels: s.carried.labels(),
			// The image's own would run commands of its own beside the job.
			Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
		},
		HostConfig: &container.HostConfig{
			NetworkMode: "none", IpcMode: container.IPCModePrivate, ReadonlyRootfs: true, Init: &no,
			CapDrop: []string{"ALL"}, CapAdd: capabilities(), SecurityOpt: []string{"no-new-privileges"},
			RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
			LogConfig:     container.LogConfig{Type: "local", Config: map[string]string{"max-size": "64k", "max-file": "1", "compress": "false"}},
			Resources: container.Resources{
				Memory: memory, MemorySwap: memory, NanoCPUs: int64(class.CPUs) * 1e9, PidsLimit: &processes,
				Ulimits: []*container.Ulimit{{Name: "core"}},
			},
			Mounts: e.mounts(s, class, disks),
		},
	}
	s.devices.give(o.Config, o.HostConfig, class.MemoryMiB)
	return o
}

// mounts are what a container has beside its image, whose root is read-only.
func (e *Executor) mounts(s *sandbox, class nimbus.Class, disks []string) []mount.Mount {
	var all []mount.Mount
	bind := func(from, to string, readOnly bool) {
		all = append(all, mount.Mount{
			Type: mount.TypeBind, Source: from, Target: to, ReadOnly: readOnly,
			BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate},
		})
	}
	bind(e.cfg.Guest, guest, true)
	bind(filepath.Join(s.dir, doorDir), ownDir+"/"+doorDir, true)
	bind(filepath.Join(s.dir, hostsFile), "/etc/hosts", true)
	bind(filepath.Join(s.dir, namesFile), "/etc/resolv.conf", true)
	if e.cfg.Runner != "" {
		bind(e.cfg.Runner, Runner, true)
	}
	for n, folder := range s.folders() {
		if n < len(disks) {
			bind(disks[n], folder, false)
		} else {
			all = append(all, memory(folder, max(class.MemoryMiB/2, smallMiB)))
		}
	}
	for _, part := range s.carried.kit.Binds() { // some are below a folder above
		bind(part.From, part.To, true)
	}
	for _, folder := range slices.Concat([]string{"/run", "/var/tmp"}, s.picture.volumes) {
		if !slices.ContainsFunc(all, func(m mount.Mount) bool { return m.Target == folder }) {
			all = append(all, memory(folder, smallMiB))
		}
	}
	return all
}

// memory is a folder in the job's memory.
func memory(folder string, mib int) mount.Mount {
	const anybody = 0o1777
	return mount.Mount{Type: mount.TypeTmpfs, Target: folder, TmpfsOptions: &mount.TmpfsOptions{SizeBytes: int64(mib) << 20, Mode: anybody}}
}

// volumesOf are the folders that an image wants to be volumes. The daemon would
// make them where it keeps its own, without a bound.
func volumesOf(declared map[string]struct{}) ([]string, error) {
	var folders []string
	for folder := range declared {
		clean := path.Clean("/" + folder)
		if clean == "/" || clean == ownDir || strings.HasPrefix(clean, ownDir+"/") {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "it wants a volume at %s", strconv.Quote(folder))
		}
		if needed(clean) {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "no container starts from it: it wants a volume at %s", strconv.Quote(folder)).
				WithHint("a volume is empty there, and what programs need would be gone: take VOLUME %s out of the image", clean)
		}
		folders = append(folders, clean)
	}
	if len(folders) > maxVolumes {
		return nil, nimbus.Errorf(nimbus.CodeTooLarge, "it wants %d volumes; the most are %d", len(folders), maxVolumes)
	}
	slices.Sort(folders)
	return slices.Compact(folders), nil
}

// needed tells whether no process can begin where a folder is empty.
func needed(folder string) bool {
	for _, kernel := range []string{"/proc", "/sys", "/dev"} {
		if folder == kernel || strings.HasPrefix(folder, kernel+"/") {
			return true
		}
	}
	return slices.Contains([]string{
		"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib32", "/usr/lib64",
	}, folder)
}
