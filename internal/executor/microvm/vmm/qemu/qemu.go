// Package qemu boots microVMs with QEMU's machine type "microvm": no PCI, no
// firmware, a kernel that is entered directly. It uses KVM where that really
// works and emulates otherwise.
package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/vmm"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

// Name is the monitor's.
const Name = "qemu"

// program is QEMU for 64-bit Intel and AMD.
const program = "qemu-system-x86_64"

// portSocket is the guest's port, in the machine's directory.
const portSocket = "port.sock"

// nobody is whom QEMU becomes once it has opened its files: the user and group
// that own nothing on any Linux.
const nobody = "65534:65534"

// Memory that QEMU needs beside the guest's.
const (
	overheadMiB = 128 // itself, its devices' buffers
	codeMiB     = 256 // code that it made of the guest's, when it emulates
)

// versionTimeout bounds `qemu --version`: on a cold disk it reads 20 MB.
const versionTimeout = 20 * time.Second

// Driver implements vmm.Driver.
type Driver struct {
	mu     sync.Mutex
	probed bool
	caps   vmm.Caps
	err    error
	khz    int // of the processor's time stamp counter
}

// New returns the driver.
func New() *Driver { return &Driver{} }

// Probe looks once; what is missing is looked for again at the next call.
func (d *Driver) Probe(ctx context.Context) (vmm.Caps, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.probed || d.err != nil {
		d.caps, d.err = d.probe(ctx)
		d.probed = ctx.Err() == nil
	}
	return d.caps, d.err
}

func (d *Driver) probe(ctx context.Context) (vmm.Caps, error) {
	version, err := qemuVersion(ctx)
	if err != nil {
		return vmm.Caps{}, err
	}
	if d.khz, err = processorKHz(); err != nil {
		return vmm.Caps{}, err
	}
	caps := vmm.Caps{Monitor: Name, Version: version, OverheadMiB: overheadMiB}
	accelerator, model := "tcg", "max"
	if kvmErr := tryKVM(ctx); kvmErr == nil {
		accelerator, model = "kvm", "host"
		caps.Accelerated = true
		caps.Version += ", KVM"
	} else {
		caps.OverheadMiB += codeMiB
		caps.Version += ", emulated (" + kvmErr.Error() + ")"
	}
	// What isn't known, no job is promised.
	caps.Processor, _ = processorOf(ctx, accelerator, model)
	return caps, nil
}

func qemuVersion(ctx context.Context) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", nimbus.Errorf(nimbus.CodeUnavailable, "QEMU is not installed").WithHint("on Debian: apt-get install qemu-system-x86")
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", nimbus.Errorf(nimbus.CodeUnavailable, "QEMU does not start: %v", err).WithHint("try: %s --version", program)
	}
	// QEMU emulator version 7.2.22 (Debian …)
	fields := strings.Fields(string(out))
	if len(fields) < 4 {
		return "QEMU", nil
	}
	return "QEMU " + fields[3], nil
}

// processorKHz is the speed of the time stamp counter. An emulated kernel that
// had to measure it would hang for ever on a busy machine.
func processorKHz() (int, error) {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return 0, fmt.Errorf("read processor: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(key) != "cpu MHz" {
			continue
		}
		mhz, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			return 0, fmt.Errorf("read processor: %w", err)
		}
		return int(mhz * 1000), nil
	}
	return 0, errors.New("read processor: /proc/cpuinfo has no speed")
}

// Command is QEMU's command line.
func (d *Driver) Command(m vmm.Machine) ([]string, error) {
	d.mu.Lock()
	caps, khz, probed := d.caps, d.khz, d.probed && d.err == nil
	d.mu.Unlock()
	if !probed {
		return nil, errors.New("QEMU has not been probed")
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, fmt.Errorf("find QEMU: %w", err)
	}
	board := "microvm,acpi=on"
	if m.Savable || m.From != nil {
		board += ",memory-backend=memory"
	}
	args := []string{
		path, "-M", board, "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
		"-smp", strconv.Itoa(m.CPUs), "-m", strconv.Itoa(m.MemoryMiB) + "M",
		// The guest is hostile: what it may make of a hole in QEMU is bounded.
		// Privileges aren't denied by the filter, which would refuse -runas as
		// well; they are gone with it, and nothing can be executed to regain them.
		"-runas", nobody, "-sandbox", "on,obsolete=deny,elevateprivileges=allow,spawn=deny,resourcecontrol=deny",
		"-kernel", m.Kernel, "-initrd", m.Initrd, "-append", parameters(caps, khz, m.Parameters),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-device", "virtio-serial-device,max_ports=2",
		"-chardev", "socket,id=port,path=" + portSocket + ",server=on,wait=off",
		"-device", "virtserialport,chardev=port,name=agent",
		"-qmp", "unix:" + qmpSocket + ",server=on,wait=off",
	}
	if m.Savable || m.From != nil {
		args = append(args, "-object", memoryBackend(m))
	}
	if m.From != nil {
		args = append(args, "-incoming", "defer", "-S")
	}
	if caps.Accelerated {
		args = append(args, "-accel", "kvm", "-cpu", "host")
	} else {
		args = append(args, "-accel", fmt.Sprintf("tcg,tb-size=%d", codeMiB), "-cpu", "max,la57=off")
	}
	for i, disk := range m.Disks {
		drive := fmt.Sprintf("if=none,id=d%d,format=raw,file.driver=file,file.filename=%s", i, escape(disk.Path))
		if disk.ReadOnly {
			drive += ",readonly=on"
		} else {
			drive += ",discard=unmap,cache=unsafe" // it is thrown away with the machine
			// When a machine is saved or restored, QEMU gives up writing or begins to.
			// It would open the file anew for that, which it may not any more.
			drive += ",auto-read-only=off,file.auto-read-only=off"
		}
		args = append(args, "-drive", drive, "-device", fmt.Sprintf("virtio-blk-device,drive=d%d", i))
	}
	if dev := m.Device; dev != nil {
		args = append(args, "-netdev", "tap,id=n0,script=no,downscript=no,vhost=off,ifname="+dev.Tap,
			"-device", "virtio-net-device,netdev=n0,mac="+dev.MAC)
	}
	return args, nil
}

// parameters is the kernel's command line.
func parameters(caps vmm.Caps, khz int, own string) string {
	words := []string{"console=ttyS0", "quiet", "panic=-1", "reboot=t", "random.trust_cpu=on", "8250.nr_uarts=1"}
	if !caps.Accelerated {
		// Mitigations guard against a processor that isn't there.
		words = append(words, "tsc=reliable", fmt.Sprintf("tsc_early_khz=%d", khz), "no_timer_check", "mitigations=off", "audit=0")
	}
	return strings.Join(append(words, own), " ")
}

// escape doubles commas, which separate QEMU's options.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }

// Dial connects to the guest over its port, which has no connections of its own.
func (*Driver) Dial(ctx context.Context, dir string) (net.Conn, error) {
	raw, err := executor.DialUnix(ctx, dir, portSocket)
	if err != nil {
		return nil, err
	}
	return guestlink.Dial(ctx, raw)
}
